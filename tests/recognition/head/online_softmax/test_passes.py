"""The two passes as functions: block sizes, extremes, precision, memory."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from recognition.head import PartialFC, RowSGD, curricularface, softmax
from recognition.head.online_softmax.forward import Samples, combine_statistics, negative_statistics
from recognition.head.online_softmax.settings import StreamSettings
from recognition.head.online_softmax.stream import BlockStream
from recognition.head.online_softmax.threads import Threads
from recognition.head.placement.table import Table
from recognition.head.rows import RowSet

SAMPLES, CLASSES, SIZE = 9, 57, 16


def _problem() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    unit = F.normalize(torch.randn(SAMPLES, SIZE, generator=generator))
    weight = torch.randn(CLASSES, SIZE, generator=generator)
    return unit, torch.randint(-1, CLASSES, (SAMPLES,), generator=generator), weight


def _stream(weight: Tensor, settings: StreamSettings) -> BlockStream:
    threads = Threads(torch.device("cpu"), parallel=True)
    return BlockStream(Table(weight, {}), SIZE, settings, threads)


def _settings(rows: int, keep: bool = False) -> StreamSettings:
    return StreamSettings(
        scale=30.0, block_bytes=rows * 12 * (SAMPLES + SIZE), keep_bytes=1 << 20 if keep else 0
    )


@pytest.mark.parametrize("rows", [1, 2, 7, CLASSES - 1, CLASSES, 10 * CLASSES])
@pytest.mark.parametrize("picked", [None, [0, 3, 4, 20, 21, 22, 56], []], ids=str)
def test_statistics_are_those_of_the_dense_softmax(rows: int, picked: list[int] | None) -> None:
    unit, target, weight = _problem()
    index = torch.tensor(list(range(CLASSES)) if picked is None else picked, dtype=torch.int64)
    row_set = RowSet(CLASSES) if picked is None else RowSet(len(picked), index)
    found, _ = negative_statistics(
        _stream(weight, _settings(rows)),
        Samples(unit, target),
        row_set,
        block_samples=SAMPLES,
        with_grad=True,
        keep=False,
    )
    centres = F.normalize(weight.double())[index]
    cosine = unit.double() @ centres.T
    logits = (30.0 * cosine).masked_fill(index == target.unsqueeze(1), -math.inf)

    log2_total = combine_statistics(found.running_max.unsqueeze(0), found.sum_exp.unsqueeze(0))
    lse = log2_total * math.log(2.0)
    torch.testing.assert_close(lse.double(), logits.logsumexp(1), rtol=0, atol=2e-5)
    if picked != []:
        assert found.grad_unit is not None
        mean = found.grad_unit / found.sum_exp.unsqueeze(1)
        torch.testing.assert_close(mean.double(), logits.softmax(1) @ centres, rtol=0, atol=2e-5)


@pytest.mark.parametrize("sampling", ["all", "random_negative"])
@pytest.mark.parametrize("keep_bytes", [0, 1 << 20])
def test_any_block_size_gives_the_same_step(sampling: str, keep_bytes: int) -> None:
    results = []
    for block_bytes in (1, 3000, 1 << 30):
        head = PartialFC(
            SIZE,
            CLASSES,
            sampling=sampling,
            sample_rate=0.5,
            block_bytes=block_bytes,
            keep_bytes=keep_bytes,
        )
        x = _problem()[0].requires_grad_()
        output = head(x, torch.arange(SAMPLES))
        output.loss.backward()
        head.step(0.01)
        assert x.grad is not None
        results.append(
            (output.loss.detach(), x.grad, head.weight, head.state_tensors()["momentum"])
        )
    for other in results[1:]:
        # Only the order of float32 sums differs.
        for found, expected in zip(other, results[0], strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=2e-5 * float(expected.max()))


@pytest.mark.parametrize("scale", [1.0, 64.0, 1e4])
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("target_sign", [1.0, -1.0])
def test_extreme_cosines_stay_finite_and_exact(
    scale: float, sign: float, target_sign: float
) -> None:
    head = PartialFC(4, 6, sampling="all", scale=scale)
    head.weight.copy_(sign * torch.eye(4)[0].expand(6, 4))
    head.weight[2] = target_sign * torch.eye(4)[0]
    x = torch.eye(4)[:1].clone().requires_grad_()
    output = head(x, torch.tensor([2]))
    output.loss.backward()
    finite = head.gradients_finite()
    head.step(0.1)

    # Five negatives of one logit each: log(1 + 5 e^(z - t)).
    z, t = scale * sign, scale * (target_sign - 0.4)
    expected = F.softplus(torch.tensor(z + math.log(5.0) - t, dtype=torch.float64))
    # Logits of up to 64 * 2.4 in float32 are off by 1e-5, and so is the logarithm of their sum.
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-30)
    assert finite
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert head.weight.isfinite().all()


@pytest.mark.parametrize("boost", [0.0, 0.9])
def test_hard_negatives_near_one_stay_in_range(boost: float) -> None:
    head = PartialFC(4, 6, sampling="all", loss=curricularface(0.5, alpha=1e-6))
    head.running.fill_(boost)
    head.weight.copy_(torch.eye(4)[0].expand(6, 4))
    head.weight[2] = torch.eye(4)[1]
    x = torch.tensor([[1.0, 0.0, 0.0, 0.0]], requires_grad=True)
    output = head(x, torch.tensor([2]))
    output.loss.backward()

    # Five negatives of cosine 1 count as 1 + t each: logits of up to 122, to base 2 of 175.
    expected = 64.0 * (1.0 + boost) + math.log(5.0) - 64.0 * math.cos(math.pi / 2 + 0.5)
    assert output.loss.item() == pytest.approx(expected, rel=1e-4)
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert head.gradients_finite()


@pytest.mark.parametrize("norm", [1e-3, 1e-11, 1e-13, 1e15])
def test_centres_of_any_norm_give_finite_gradients(norm: float) -> None:
    head = PartialFC(4, 6, sampling="all", loss=softmax(), optimizer=RowSGD(weight_decay=0.0))
    head.weight.copy_(norm * torch.eye(4)[0].expand(6, 4))
    head.weight[2] = norm * torch.eye(4)[1]
    x = torch.tensor([[1.0, 0.1, 0.0, 0.0]], requires_grad=True)
    output = head(x, torch.tensor([2]))
    output.loss.backward()

    unit = min(norm / 1e-12, 1.0)  # below 1e-12 a centre is no longer normalised to 1
    cosine = torch.tensor([unit, 0.1 * unit], dtype=torch.float64) / math.sqrt(1.01)
    expected = F.softplus(64.0 * (cosine[0] - cosine[1]) + math.log(5.0))
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert x.grad.any()


def test_a_sample_without_negatives_has_no_loss_and_no_gradient() -> None:
    head = PartialFC(4, 6, sampling="positives_only", optimizer=RowSGD(weight_decay=0.0))
    x = torch.randn(3, 4, requires_grad=True)
    output = head(x, torch.tensor([2, 2, 2]))
    output.loss.backward()
    before = head.weight.clone()
    head.step(0.1)

    assert output.loss.item() == 0.0
    assert x.grad is not None
    assert not x.grad.any()
    assert torch.equal(head.weight, before)


def test_the_filter_leaves_classes_out_rather_than_zeroing_their_cosine() -> None:
    head = PartialFC(4, 5, sampling="all", inter_class_filter=0.5, scale=8.0)
    x = torch.eye(4)[:1]
    head.weight.copy_(torch.tensor([[1.0, 0, 0, 0], [0.9, 0.1, 0, 0]] + [[0.0, 1, 0, 0]] * 3))
    output = head(x, torch.tensor([0]))

    # Class 1 is out; the target class stays, though its cosine is above the threshold.
    assert output.loss.item() == pytest.approx(math.log1p(3 * math.exp(-8.0 * 0.6)), rel=1e-5)


def test_bfloat16_products_stay_within_bfloat16_of_the_float32_step() -> None:
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        head = PartialFC(64, 500, sampling="all", matmul_dtype=dtype)
        x = torch.randn(32, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()
        output = head(x, torch.arange(32))
        output.loss.backward()
        head.step(0.01)
        assert x.grad is not None
        results.append(
            (
                output.loss.item(),
                x.grad,
                head.state_tensors()["momentum"],
                float(output.figures["cosine_positive"]),
            )
        )
    (loss, by_x, velocity, cosine), (loss16, by_x16, velocity16, cosine16) = results

    # Cosines up to 0.5 are rounded to 2^-10 of their power of two and made of factors rounded to
    # 2^-9: logits are off by some 64 * 2^-10 = 0.06, probabilities by that fraction, and sums over
    # many of them less.
    assert loss16 == pytest.approx(loss, abs=0.06)
    assert (by_x16 - by_x).norm() < 0.06 * by_x.norm()
    assert (velocity16 - velocity).norm() < 0.06 * velocity.norm()
    assert cosine16 == cosine  # the target cosine is float32 always


class _LargestTensor(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has none there
    """Records the size of the largest tensor that an operation makes, except views of tables."""

    def __init__(self, tables: list[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tables = {table.untyped_storage().data_ptr() for table in tables}
        self.numel = 0

    def __torch_dispatch__(
        self,
        func: object,
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        assert callable(func)
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (list, tuple)) else [result]:
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in self.tables:
                    self.numel = max(self.numel, storage.nbytes() // 4)
        return result


@pytest.mark.slow
@pytest.mark.parametrize("sampling", ["all", "random_negative"])
def test_no_tensor_grows_with_samples_times_classes_nor_with_the_table(sampling: str) -> None:
    samples, classes, size, rows = 8, 20_000, 16, 50
    block_bytes = 12 * rows * (samples + size)
    head = PartialFC(
        size, classes, sampling=sampling, sample_rate=0.9, block_bytes=block_bytes, keep_bytes=0
    )
    x = torch.randn(samples, size, requires_grad=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # only tensors of the current thread are seen
    with _LargestTensor([head.weight, head.state_tensors()["momentum"]]) as largest:
        output = head(x, torch.arange(samples))
        output.loss.backward()
        head.step(0.1)
    torch.set_num_threads(threads)

    # A class may take its number in the active set (int64, two words), never a row or a column.
    per_class = 0 if sampling == "all" else 2 * classes
    assert largest.numel <= max(per_class, rows * size, 1 << 15)
    assert largest.numel < samples * classes / 2
    assert largest.numel >= rows * size  # the measurement works


def test_exponentials_are_kept_within_the_budget_and_not_beyond() -> None:
    unit, target, weight = _problem()
    rows = RowSet(CLASSES)
    exactly = SAMPLES * CLASSES * 4
    for budget, kept in [(exactly, True), (exactly - 1, False)]:
        stream = _stream(weight, StreamSettings(30.0, keep_bytes=budget))
        _, found = negative_statistics(
            stream, Samples(unit, target), rows, block_samples=SAMPLES, with_grad=False, keep=True
        )
        assert (found is not None) == kept


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 0.0}, "scale: 0.0"),
        ({"inter_class_filter": 1.5}, "inter_class_filter: 1.5"),
        ({"block_bytes": 0}, "block_bytes: 0"),
        ({"keep_bytes": -1}, "keep_bytes: -1"),
        ({"matmul_dtype": torch.float16}, "matmul_dtype: torch.float16"),
    ],
)
def test_settings_out_of_range_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PartialFC(4, 6, **options)  # type: ignore[arg-type]  # each case is one wrong argument
