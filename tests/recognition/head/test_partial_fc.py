"""`PartialFC` as users call it, on one rank."""

import copy
import io
import re

import pytest
import torch
from torch import Tensor

from recognition.head import PartialFC, RowSGD, arcface, cosface
from recognition.head.placement.collectives import ShardedCollectives
from tests.recognition.head.helpers import active_classes
from tests.recognition.head.reference import COSFACE, DenseHead

CLASSES, SIZE = 200, 16


def _head(**options: object) -> PartialFC:
    return PartialFC(SIZE, CLASSES, **{"sample_rate": 0.2, **options})  # type: ignore[arg-type]


def _batch(seed: int, size: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, SIZE, generator=generator)
    return x, torch.randint(0, CLASSES, (size,), generator=generator)


def _step(head: PartialFC, seed: int) -> None:
    x, y = _batch(seed)
    head(x, y).loss.backward()
    head.step(0.1)


def _changed(before: Tensor, after: Tensor) -> Tensor:
    return (before != after).any(1).nonzero().squeeze(1)


def test_frozen_rows_outside_the_active_set_keep_their_bits() -> None:
    head = _head(update="frozen")
    for seed in range(4):
        weight, momentum = head.weight.clone(), head.state_tensors()["momentum"].clone()
        x, y = _batch(seed)
        output = head(x, y)
        output.loss.backward()
        head.step(0.1)
        changed = _changed(weight, head.weight)
        # Momentum of earlier steps must not move a row either.
        assert len(changed) == output.active_classes < CLASSES
        assert set(y.tolist()) <= set(changed.tolist())
        assert torch.equal(changed, _changed(momentum, head.state_tensors()["momentum"]))


def test_prefetched_rows_are_used_for_their_step_and_batch_alone() -> None:
    # Frozen, as rows that a set that is dropped made up for have other last bits.
    ahead, plain = (_head(placement="host", update="frozen") for _ in range(2))
    for step in range(4):
        x, y = _batch(step)
        # The right batch; a different one; the right one, but before the table was updated.
        prefetched = {0: y, 1: _batch(9)[1], 2: y}.get(step)
        if prefetched is not None:
            ahead.prefetch(prefetched)
        for head in (ahead, plain):
            head(x, y).loss.backward()
            if head is ahead and step == 2:
                head.prefetch(_batch(3)[1])
            head.step(0.1)
        assert torch.equal(ahead.weight, plain.weight)


def test_a_table_on_the_host_stays_there() -> None:
    head = _head(placement="host").to(torch.device("meta"))

    assert head.weight.device.type == "cpu"


@pytest.mark.parametrize("sampling", ["all", "random_negative", "positives_only"])
def test_accumulating_parts_equals_the_dense_sum_of_their_losses(sampling: str) -> None:
    head = _head(sampling=sampling)
    dense = DenseHead(head.weight, COSFACE)
    parts = [_batch(seed, size) for seed, size in [(0, 6), (1, 3), (2, 1)]]
    total = torch.zeros(CLASSES, SIZE, dtype=torch.float64)
    union = torch.zeros(CLASSES, dtype=torch.bool)
    for x, y in parts:
        before = head.weight.clone()
        output = head(x, y)
        (output.loss / 3).backward()
        active = active_classes(sampling, y, CLASSES, rate=0.2, seed=0, step=0)
        loss, _, by_weight = dense.loss_and_gradients(x, y, active)
        assert output.loss.item() == pytest.approx(loss.item(), rel=1e-5)
        total += by_weight / 3
        union[active] = True
        assert torch.equal(head.weight, before)
    dense.step(total, union.nonzero().squeeze(1), 0.1)
    norm = head.gradient_norm()
    head.step(0.1)

    # Logits are off by some 1e-5 in float32, see test_ranks.
    assert norm.item() == pytest.approx(total.norm().item(), rel=5e-5)
    error = (head.weight.double() - dense.weight).abs().max()
    assert error < 5e-5 * dense.weight.abs().max()


def test_accumulating_halves_equals_the_whole_batch() -> None:
    whole, halves = _head(sampling="all"), _head(sampling="all")
    x, y = _batch(0, size=8)
    whole(x, y).loss.backward()
    whole.step(0.1)
    for part in (slice(0, 4), slice(4, 8)):
        (halves(x[part], y[part]).loss / 2).backward()
    halves.step(0.1)

    torch.testing.assert_close(whole.weight, halves.weight, rtol=1e-5, atol=1e-5)


def test_scaling_the_loss_scales_embeddings_gradient_and_is_reversed_by_grad_scale() -> None:
    plain, scaled = _head(), _head()
    x, y = _batch(0)
    x_plain, x_scaled = x.clone().requires_grad_(), x.clone().requires_grad_()
    plain(x_plain, y).loss.backward()
    (scaled(x_scaled, y).loss * 1024.0).backward()
    assert x_plain.grad is not None
    assert x_scaled.grad is not None
    assert torch.equal(x_plain.grad * 1024.0, x_scaled.grad)  # a power of two is exact
    assert plain.gradient_norm() == scaled.gradient_norm(1024.0)
    plain.step(0.1)
    scaled.step(0.1, grad_scale=torch.tensor(1024.0))

    assert torch.equal(plain.weight, scaled.weight)


def test_resuming_the_step_count_replays_the_sets_to_the_bit() -> None:
    head = _head(loss=arcface(0.5))
    for seed in range(3):
        _step(head, seed)
    file = io.BytesIO()
    torch.save(head.state_dict(), file)
    file.seek(0)
    resumed = _head(loss=arcface(0.5))
    resumed.load_state_dict(torch.load(file, weights_only=True))
    by_hand = _head(loss=arcface(0.5))
    for name, tensor in by_hand.state_tensors().items():
        tensor.copy_(head.state_tensors()[name])
    by_hand.step_count = 3
    for seed in range(3, 6):
        for each in (head, resumed, by_hand):
            _step(each, seed)

    for each in (resumed, by_hand):
        assert torch.equal(each.weight, head.weight)
        assert torch.equal(each.state_tensors()["momentum"], head.state_tensors()["momentum"])


def test_without_gradients_nothing_is_kept_and_nothing_changes() -> None:
    head = _head()
    before = copy.deepcopy(head.state_dict())
    x, y = _batch(0)
    with torch.no_grad():
        output = head(x.requires_grad_(), y)
    assert not output.loss.requires_grad
    assert output.loss.item() == pytest.approx(head(x, y).loss.item())
    with pytest.raises(ValueError, match=r"loss\.backward\(\)"):
        head.step(0.1)
    assert torch.equal(head.weight, before["table.weight"])


def test_centres_train_on_embeddings_that_need_no_gradient() -> None:
    frozen, full = _head(), _head()
    x, y = _batch(0)
    frozen(x, y).loss.backward()
    frozen.step(0.1)
    full(x.clone().requires_grad_(), y).loss.backward()
    full.step(0.1)

    assert torch.equal(frozen.weight, full.weight)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_embeddings_get_a_gradient_of_their_dtype(dtype: torch.dtype) -> None:
    x, y = _batch(0)
    x = x.to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = _head()(x, y)
    output.loss.backward()
    exact = _head()(x.detach().float(), y)

    assert x.grad is not None
    assert x.grad.dtype == dtype
    # The head computes in half precision only where asked to, under autocast too.
    assert output.loss.item() == exact.loss.item()


def test_skip_drops_the_gradient_and_counts_the_step() -> None:
    head = _head()
    x, y = _batch(0)
    before = head.weight.clone()
    head(x, y).loss.backward()
    head.step(0.1, skip=True)

    assert head.step_count == 1
    assert torch.equal(head.weight, before)
    with pytest.raises(ValueError, match=r"loss\.backward\(\)"):
        head.step(0.1)


@pytest.mark.parametrize("update", ["frozen", "coasting"])
@pytest.mark.parametrize("placement", ["sharded", "host"])
@pytest.mark.parametrize("sampling", ["random_negative", "all"])
def test_a_step_without_samples_treats_all_centres_as_not_sampled(
    update: str, placement: str, sampling: str
) -> None:
    head = _head(update=update, placement=placement, sampling=sampling)
    _step(head, 0)
    head.step(0.1, no_samples=True, skip=True)
    weight, momentum = head.weight.clone(), head.state_tensors()["momentum"].clone()
    head.step(0.1, no_samples=True)

    assert head.step_count == 3
    if update == "coasting":
        momentum = 0.9 * momentum + 5e-4 * weight
        weight = weight - 0.1 * momentum
    else:
        assert torch.equal(head.weight, weight)
    torch.testing.assert_close(head.weight, weight)
    torch.testing.assert_close(head.state_tensors()["momentum"], momentum)
    head(*_batch(1)).loss.backward()
    with pytest.raises(ValueError, match="no_samples"):
        head.step(0.1, no_samples=True)


@pytest.mark.parametrize("where", ["embeddings", "centre", "loss"])
def test_a_number_that_is_not_finite_shows_before_any_centre_moves(where: str) -> None:
    head = _head(sampling="all")
    x, y = _batch(0)
    factor = 1.0
    if where == "embeddings":
        x[3, 2] = float("inf")
    elif where == "centre":
        head.weight[7, 0] = float("nan")
    else:
        factor = float("inf")
    (head(x, y).loss * factor).backward()

    assert not head.gradients_finite()


def test_finite_gradients_are_called_finite() -> None:
    head = _head()
    x, y = _batch(0)
    head(x, y).loss.backward()

    assert head.gradients_finite()


def test_output_counts_the_active_classes() -> None:
    x = torch.randn(4, SIZE)
    output = _head(sample_rate=0.01)(x, torch.tensor([5, 5, 9, 11]))

    assert output.active_classes == 3  # more than the quota of 2
    figures = {name: float(value) for name, value in output.figures.items()}
    assert figures["positive_classes"] == 3
    assert figures["quota_overflow"] == 1
    target = torch.nn.functional.cosine_similarity(x, _head().weight[torch.tensor([5, 5, 9, 11])])
    assert figures["cosine_positive"] == pytest.approx(target.mean().item(), abs=1e-6)


def test_a_loss_goes_backward_once_and_before_the_step() -> None:
    head = _head()
    x, y = _batch(0)
    loss = head(x, y).loss
    loss.backward(retain_graph=True)
    with pytest.raises(ValueError, match="backward"):
        loss.backward()
    late = head(x, y).loss
    head.step(0.1)
    with pytest.raises(ValueError, match=r"step 0.*step 1"):
        late.backward()


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(2, 5), torch.zeros(2), r"embeddings: .*\[2, 5\].*\[batch, 16\]"),
        (torch.zeros(2, 16).double(), torch.zeros(2), "embeddings: torch.float64"),
        (torch.zeros(2, 16), torch.zeros(3).long(), r"labels: .*\[3\].*\[2\]"),
        (torch.zeros(2, 16), torch.zeros(2), "labels: torch.float32"),
        (torch.zeros(2, 16), torch.tensor([0, 200]), r"labels: 0 to 200.*\[0, 200\)"),
        (torch.zeros(2, 16), torch.tensor([-1, 3]), "labels: -1 to 3"),
        (torch.zeros(0, 16), torch.zeros(0).long(), r"batch_sizes: \[0\]"),
        (
            torch.zeros(2, 16, device="meta"),
            torch.zeros(2).long(),
            "embeddings: .*meta.*cpu",
        ),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(x: Tensor, y: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _head()(x, y)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampling": "random"}, r"sampling: 'random' .*'random_negative'"),
        ({"sample_rate": 0.0}, "sample_rate: 0.0.*0 < sample_rate <= 1"),
        ({"sample_rate": 1.5}, "sample_rate: 1.5"),
        ({"placement": "replicated", "sampling": "hard_negative"}, "'hard_negative'.*'replicated'"),
        ({"sampling": "hash_forest", "rebuild_every": 0}, "rebuild_every: 0"),
        ({"placement": "gpu"}, r"placement: 'gpu' .*'sharded'"),
        ({"scale": 0.0}, "scale: 0.0"),
        ({"placement": None}, "placement: None .*'sharded'"),
        ({"sampling": ["all"]}, r"sampling: \['all'\] .*'random_negative'"),
        ({"loss": "cosface"}, r"loss: 'cosface' .*cosface\(0\.4\)"),
        ({"loss": cosface}, r"loss: <class .*cosface\(0\.4\)"),
        ({"loss": torch.nn.CrossEntropyLoss()}, r"loss: a CrossEntropyLoss .*cosface\(0\.4\)"),
        ({"optimizer": "sgd"}, r"optimizer: 'sgd' .*RowSGD\(\)"),
        ({"optimizer": RowSGD}, r"optimizer: <class .*RowSGD\(\)"),
        (
            {"optimizer": torch.optim.SGD([torch.zeros(1, requires_grad=True)])},
            r"optimizer: a SGD .*RowSGD\(\)",
        ),
    ],
)
def test_unknown_and_unfit_settings_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _head(**options)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([3], r"batch_sizes: \[3\].* 2 ranks"),
        ([3, 4], r"batch_sizes: \[3, 4\].*rank 1 .* 3 "),
        ([-1, 3], r"batch_sizes: \[-1, 3\]"),
    ],
)
def test_batch_sizes_that_do_not_fit_are_refused(sizes: list[int], message: str) -> None:
    ranks = ShardedCollectives(None, rank=1, size=2)
    with pytest.raises(ValueError, match=message):
        ranks.batch_sizes(3, torch.device("cpu"), sizes)
    with pytest.raises(ValueError, match=r"batch_sizes: \[0, 0\]"):
        ranks.batch_sizes(0, torch.device("cpu"), [0, 0])


def test_sizes_below_one_and_learning_rates_below_zero_are_refused() -> None:
    for sizes in [(0, 5), (8.0, 5), (8, 1e6)]:
        message = r"embedding_size {} .*num_classes {} ".format(*map(re.escape, map(repr, sizes)))
        with pytest.raises(ValueError, match=message):
            PartialFC(*sizes)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"lr: -0\.1"):
        _head().step(-0.1)


def test_no_optimizer_sees_the_centres() -> None:
    assert list(_head().parameters()) == []
