"""Sets that are chosen ahead: for which batch they count, and what waits for what."""

import threading
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from recognition.head import PartialFC, partial_fc
from recognition.head.losses.base import Derivatives, Loss, LossInputs
from recognition.head.online_softmax import global_loss
from recognition.head.placement.collectives import GatheredBatch
from recognition.head.rows import RowSet, remember_union, union
from recognition.head.sampling.background import Background
from recognition.head.sampling.rule import ActiveSet, LabelRule, Sampler, SampleRequest
from recognition.head.sampling.selection import _Seen, nan_unless_for
from tests.recognition.head.fake_gpu import fake_gpu_mode, patch_streams

CLASSES, SIZE = 200, 16
COUNTED = ["random_negative", "random_all", "positives_only"]


def _head(**options: Any) -> PartialFC:
    return PartialFC(SIZE, CLASSES, **{"sample_rate": 0.2, **options})


def _batch(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(6, SIZE, generator=generator).requires_grad_()
    return x, torch.randint(0, CLASSES, (6,), generator=generator)


class Waits(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations for which the host would wait for a GPU."""

    NAMES = ("nonzero", "_local_scalar_dense", "unique", "masked_select")

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += any(name in str(func) for name in self.NAMES)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def in_background(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that has a head choose on a thread, as on a GPU."""
    patch_streams(monkeypatch)

    def start(head: PartialFC) -> PartialFC:
        head._selection._background = Background(torch.device("cuda", 0))
        return head

    return start


@pytest.mark.parametrize("placement", ["sharded", "replicated", "host"])
@pytest.mark.parametrize("sampling", COUNTED)
def test_after_prefetch_the_forward_pass_waits_for_nothing(
    placement: str, sampling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It looks at the values of labels in CPU memory alone.
    monkeypatch.setattr(partial_fc, "check_batch", lambda *args: None)
    head, (x, y) = _head(placement=placement, sampling=sampling), _batch(0)
    head.prefetch(y, [6])
    with Waits() as waits:
        head(x, y, [6])
    assert waits.count == 0
    with Waits() as waits:
        head(x, y, [6])  # without
    assert waits.count > 0


@pytest.mark.parametrize("sampling", COUNTED)
def test_accumulated_sets_chosen_ahead_are_united_without_a_wait(
    sampling: str, in_background: Any
) -> None:
    ahead, plain = in_background(_head(sampling=sampling)), _head(sampling=sampling)
    for step in range(2):
        for head in (ahead, plain):
            for micro in range(3):
                x, y = _batch(10 * step + micro)
                if head is ahead:
                    head.prefetch(y, [6])
                head(x, y, [6]).loss.backward()
            with Waits() as waits:
                head.step(0.1)
            assert (waits.count == 0) == (head is ahead)
    assert torch.equal(ahead.weight, plain.weight)


def test_a_set_that_was_dropped_is_in_no_union(in_background: Any) -> None:
    ahead, plain = in_background(_head()), _head()
    for head in (ahead, plain):
        for micro in range(3):
            x, y = _batch(micro)
            if head is ahead:
                head.prefetch(_batch(9)[1] if micro == 1 else y, [6])
            head(x, y, [6]).loss.backward()
        head.step(0.1)

    assert torch.equal(ahead.weight, plain.weight)


def test_unions_are_of_the_sets_that_are_asked_for() -> None:
    sets = [RowSet(2, torch.tensor(index)) for index in ([1, 5], [2, 5], [0, 9])]
    pair = remember_union(sets[0], sets[1], 10)
    whole = remember_union(pair, sets[2], 10)

    assert union(sets, 10, torch.device("cpu")) is whole
    assert union(sets[:2], 10, torch.device("cpu")) is pair
    assert union(sets[:1], 10, torch.device("cpu")) is sets[0]
    assert whole.index is not None
    assert whole.index.tolist() == [0, 1, 2, 5, 9]
    for asked, expected in [(sets[1:], [0, 2, 5, 9]), (sets[::2], [0, 1, 5, 9])]:
        index = union(asked, 10, torch.device("cpu")).index
        assert index is not None
        assert index.tolist() == expected
    every = RowSet(10)
    assert remember_union(sets[0], every, 10) is every is remember_union(every, sets[0], 10)


class _Gated(Sampler):
    """Chooses once it may."""

    def __init__(self, rule: Sampler) -> None:
        self.rule, self.may_choose, self.failure = rule, threading.Event(), False

    def __call__(self, request: SampleRequest) -> ActiveSet:
        assert self.may_choose.wait(10)
        if self.failure:
            raise OSError("of the test")
        return self.rule(request)


@pytest.mark.parametrize("placement", ["sharded", "host"])
def test_the_caller_goes_on_while_classes_are_chosen(placement: str, in_background: Any) -> None:
    ahead, plain = in_background(_head(placement=placement)), _head(placement=placement)
    ahead._selection.sampler = gated = _Gated(plain._selection.sampler)
    for step in range(3):
        x, y = _batch(step)
        gated.may_choose.clear()
        ahead.prefetch(y, [6])  # returns
        gated.may_choose.set()
        for head in (ahead, plain):
            head(x, y, [6]).loss.backward()
            head.step(0.1)
        assert torch.equal(ahead.weight, plain.weight)


def test_a_failure_in_the_background_is_raised_in_the_forward_pass(in_background: Any) -> None:
    head, (x, y) = in_background(_head()), _batch(0)
    head._selection.sampler = gated = _Gated(head._selection.sampler)
    gated.may_choose.set()
    gated.failure = True
    head.prefetch(y, [6])
    with pytest.raises(OSError, match="of the test"):
        head(x, y, [6])
    gated.failure = False

    assert torch.equal(head(x, y, [6]).loss, _head()(x, y, [6]).loss)


def test_a_rule_that_takes_all_classes_chooses_ahead_only_where_rows_are_sent() -> None:
    for placement, prefetches in [("sharded", False), ("host", True)]:
        head = _head(placement=placement, sampling="all")
        head.prefetch(_batch(0)[1])
        assert (head._selection._ahead is not None) == prefetches


def test_labels_in_cpu_memory_are_recognised_by_value() -> None:
    labels = torch.tensor([1, 2, 3])
    seen = _Seen.of(labels)
    assert seen.same(torch.tensor([1, 2, 3]))
    labels.numpy()[1] = 9  # which torch does not see

    assert not seen.same(labels)
    assert not seen.same(torch.tensor([1, 2]))


def test_labels_on_a_gpu_are_recognised_without_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_gpu_mode(monkeypatch):
        whole = torch.zeros(8, dtype=torch.int64, device="cuda")
        labels = whole[2:5]
        seen = _Seen.of(labels)
        assert seen.same(labels)
        assert seen.same(whole[2:5])
        for other in (whole[1:4], whole[2:6], whole[2:8:2], labels.clone(), labels.cpu()):
            assert not seen.same(other)
        whole.add_(1)
        assert not seen.same(labels)
        with torch.inference_mode():
            unversioned = torch.zeros(3, dtype=torch.int64, device="cuda")
        assert not _Seen.of(unversioned).same(unversioned)


def test_a_pass_on_a_gpu_after_prefetch_needs_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fake tensors have no values: whatever would wait for one raises an error."""

    def choose(request: SampleRequest) -> ActiveSet:
        index = torch.empty(40, dtype=torch.int64, device="cuda")
        overflow = torch.empty((), dtype=torch.bool, device="cuda")
        return ActiveSet(RowSet(40, index), request.positive_classes(), overflow)

    def differentiate(loss: Loss, lse_S: Tensor, inputs: LossInputs, *args: object) -> Derivatives:
        zero_M = inputs.norm * 0.0
        return Derivatives(zero_M.sum(), lse_S, zero_M, zero_M)

    # Autograd asks the driver for the device, which fake tensors have none of.
    monkeypatch.setattr(global_loss, "differentiate", differentiate)
    with fake_gpu_mode(monkeypatch) as gpu, torch.no_grad():
        head = _head(device="cuda")
        head._selection.sampler = LabelRule(choose)
        x = torch.empty(6, SIZE, device="cuda")
        y = torch.empty(6, dtype=torch.int64, device="cuda")
        for _ in range(2):
            head.prefetch(y, [6])
            assert head(x, y, [6]).active_classes == 40
            head.step_count += 1

        assert gpu.to_host == {}


def _of_two_ranks(labels: Tensor) -> GatheredBatch:
    unit = torch.ones(6, SIZE, device=labels.device)
    return GatheredBatch(unit, unit[:, 0], labels, labels, 0, [3, 3])


def test_labels_that_another_rank_changed_make_the_embeddings_nan() -> None:
    labels = torch.arange(6)
    batch = _of_two_ranks(labels)

    assert torch.equal(nan_unless_for(labels.clone(), batch).unit, batch.unit)
    assert nan_unless_for(labels.flip(0), batch).unit.isnan().all()


def test_ranks_on_a_gpu_check_each_others_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_gpu_mode(monkeypatch):
        head = _head(device="cuda", placement="host", sampling="all")
        labels = torch.empty(6, dtype=torch.int64, device="cuda")
        batch, local = _of_two_ranks(labels), labels[:3]
        head._selection.prefetch(0, labels.clone(), local)
        chosen = head._selection._ahead
        assert chosen is not None
        active, checked = head._selection(0, batch, local)
        assert active is chosen.active()
        assert checked.unit is not batch.unit
        head._selection.prefetch(0, labels[:5], local)  # of another size: another batch
        assert head._selection(0, batch, local)[1] is batch


def _rate(step: int) -> float:
    return (0.1, 0.1, 0.4, 1.0)[min(step, 3)]


def _train(head: PartialFC, steps: range, *, ahead: bool = False) -> list[int]:
    """Train on the batches of `steps`; return how many classes took part in each."""
    counts = []
    for step in steps:
        x, y = _batch(step)
        if ahead:
            head.prefetch(y, [6])
        output = head(x, y, [6])
        output.loss.backward()
        head.step(0.1)
        counts.append(output.active_classes)
    return counts


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("sampling", ["random_negative", "hard_negative"])
def test_the_sample_rate_changes_at_its_very_step(sampling: str, ahead: bool) -> None:
    counts = _train(_head(sampling=sampling, sample_rate=_rate), range(5), ahead=ahead)
    for rate, steps in ((0.1, range(2)), (0.4, range(2, 3)), (1.0, range(3, 5))):
        constant = _head(sampling=sampling, sample_rate=rate)
        for step in steps:
            constant.step_count = step  # which, with the labels, decides how many are drawn
            assert counts[step] == constant(*_batch(step), [6]).active_classes
    assert counts[3:] == [CLASSES, CLASSES]


def test_a_resumed_run_replays_the_sample_rates_to_the_bit() -> None:
    whole, first, second = (_head(sample_rate=_rate) for _ in range(3))
    _train(whole, range(2))
    whole.settle()  # as saving does
    _train(whole, range(2, 5))
    _train(first, range(2))
    for name, rows in second.state_tensors().items():
        rows.copy_(first.state_tensors()[name])
    second.set_extra_state(first.get_extra_state())
    _train(second, range(2, 5))
    for name, rows in whole.state_tensors().items():
        assert torch.equal(rows, second.state_tensors()[name]), name


@pytest.mark.parametrize("rate", [0.0, 1.5, float("nan")])
def test_a_sample_rate_out_of_range_is_refused_at_its_step(rate: float) -> None:
    head = _head(sample_rate=lambda step: rate if step == 1 else 0.5)
    _train(head, range(1))
    with pytest.raises(ValueError, match=f"sample_rate.*{rate}"):
        _train(head, range(1, 2))
