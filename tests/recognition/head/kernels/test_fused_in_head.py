"""The head on the fused kernels: against float32, and what is launched for a block."""

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from recognition.head import PartialFC, RowSGD, arcface
from recognition.head.kernels.reference import BlockOps, Coefficients
from recognition.head.online_softmax.settings import BLOCK_BYTES
from recognition.head.online_softmax.threads import Threads
from recognition.head.placement.split_table import SplitTable
from tests.recognition.head.kernels.kernel_cases import DEVICE, TritonOps

pytestmark = pytest.mark.gpu

CLASSES, SIZE, SAMPLES = 300, 72, 40
SMALL_BLOCKS = 2 * 120 * (SAMPLES + 2 * SIZE)  # bytes: of 120 classes in bfloat16, the last of 60


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Triton's interpreter serves one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _head(monkeypatch: pytest.MonkeyPatch, ops: type[BlockOps], **options: Any) -> PartialFC:
    monkeypatch.setattr("recognition.head.online_softmax.threads.block_ops", lambda device: ops)
    # One part of all blocks, as on a GPU.
    monkeypatch.setattr("recognition.head.online_softmax.threads._PARTS", 1)
    monkeypatch.setattr("recognition.head.online_softmax.threads._BLOCKS", 1 << 20)
    settings: dict[str, Any] = {"loss": arcface(0.5), "keep_bytes": 0} | options
    settings.setdefault("block_bytes", SMALL_BLOCKS)
    head = PartialFC(SIZE, CLASSES, device=DEVICE, **settings)
    generator = torch.Generator().manual_seed(3)
    head.state_rows()["weight"].write(0, torch.randn(CLASSES, SIZE, generator=generator))
    return head


def _batch(seed: int, samples: int = SAMPLES) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, SIZE, generator=generator).to(DEVICE).requires_grad_()
    return x, torch.randint(0, CLASSES, (samples,), generator=generator)


def _steps(head: PartialFC, micro: int = 1) -> dict[str, Tensor]:
    gradients = []
    for step in range(2):
        for part in range(micro):
            x, y = _batch(10 * step + part)
            output = head(x, y)
            output.loss.backward()
            assert x.grad is not None
            gradients.append(x.grad)
        head.step(0.01)
    tensors = {"loss": output.loss.detach(), "x": torch.cat(gradients)}
    return tensors | {name: tensor.clone() for name, tensor in head.state_tensors().items()}


def _errors(found: dict[str, Tensor], exact: dict[str, Tensor]) -> dict[str, float]:
    return {
        name: float((found[name].double() - tensor.double()).norm() / tensor.double().norm())
        for name, tensor in exact.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("sampling", ["all", "random_negative"])
@pytest.mark.parametrize("micro", [1, 2])
def test_steps_are_nearer_to_float32_than_with_rounded_products(
    monkeypatch: pytest.MonkeyPatch, sampling: str, micro: int
) -> None:
    options: dict[str, Any] = {"sampling": sampling, "sample_rate": 0.6}
    exact = _steps(_head(monkeypatch, BlockOps, **options), micro)
    options["matmul_dtype"] = torch.bfloat16
    rounded = _errors(_steps(_head(monkeypatch, BlockOps, **options), micro), exact)
    fused = _errors(_steps(_head(monkeypatch, TritonOps, **options), micro), exact)

    assert fused["x"] < 0.6 * rounded["x"]
    # A number that is rounded to bfloat16 is off by 0.1 % on average.
    assert fused["momentum"] < 0.005
    assert fused["loss"] < 1e-4


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations that launch a kernel on a GPU."""

    VIEWS = ("view", "slice", "t", "transpose", "permute", "select", "detach", "empty", "new_empty")

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func).split(".")[1].strip("_")
        if name not in self.VIEWS:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def _launches(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Count launches: of torch by operation, of Triton by kernel."""
    from triton.runtime import interpreter

    run = interpreter.GridExecutor.__call__
    with _Operations() as operations:

        def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
            operations.counts[self.fn.__name__] += 1
            with torch.utils._python_dispatch._disable_current_modes():
                return run(self, *args, **kwargs)

        monkeypatch.setattr(interpreter.GridExecutor, "__call__", counted)
        yield operations.counts
        monkeypatch.setattr(interpreter.GridExecutor, "__call__", run)


def _launches_of_a_step(
    monkeypatch: pytest.MonkeyPatch, block_bytes: int, **options: Any
) -> Counter[str]:
    head = _head(monkeypatch, TritonOps, sampling="all", block_bytes=block_bytes, **options)
    x, y = _batch(0)
    with _launches(monkeypatch) as counts:
        head(x, y, [SAMPLES]).loss.backward()
        head.step(0.01)
    return Counter(counts)


@pytest.mark.slow
@pytest.mark.skipif(DEVICE.type == "cuda", reason="counts in the interpreter")
@pytest.mark.parametrize(
    ("dtype", "momentum", "launches"),
    [
        (torch.bfloat16, torch.float32, 3 + 3),
        (torch.bfloat16, torch.bfloat16, 3 + 3),  # the noise needs none
        (torch.float32, torch.float32, 5 + 6),
    ],
)
def test_launches_of_a_block(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, momentum: torch.dtype, launches: int
) -> None:
    row_bytes = dtype.itemsize * (SAMPLES + 2 * SIZE)
    options = {"matmul_dtype": dtype, "optimizer": RowSGD(momentum_dtype=momentum)}
    few = _launches_of_a_step(monkeypatch, 150 * row_bytes, **options)  # 2 blocks
    many = _launches_of_a_step(monkeypatch, 50 * row_bytes, **options)  # 6 blocks
    each = Counter({name: (many[name] - few[name]) / 4 for name in many})
    # The interpreter has no `addmm` with another dtype for its result: a product and a sum there.
    product_and_sum = each.pop("mm") + each.pop("add") - 1 if dtype == torch.bfloat16 else 0

    assert sum(each.values()) + product_and_sum == launches, each


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_flag_on_the_device_keeps_all_weights(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    head = _head(monkeypatch, TritonOps, sampling="all", matmul_dtype=dtype)
    before = {name: tensor.clone() for name, tensor in head.state_tensors().items()}
    x, y = _batch(0)
    (head(x, y).loss * math.nan).backward()
    head.step(0.01, skip=~head.gradients_finite())
    for name, tensor in head.state_tensors().items():
        assert torch.equal(tensor, before[name])
    x, y = _batch(1)
    head(x, y).loss.backward()
    head.step(0.01, skip=~head.gradients_finite())
    for name, tensor in head.state_tensors().items():
        assert tensor.isfinite().all()
        assert not torch.equal(tensor, before[name])


def test_a_table_in_halves_is_the_table_in_float32_wherever_it_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = _head(monkeypatch, BlockOps)
    halves = _head(monkeypatch, TritonOps, matmul_dtype=torch.bfloat16)
    rows = torch.tensor([299, 0, 7], device=DEVICE)

    assert not isinstance(plain.table, SplitTable)
    assert isinstance(halves.table, SplitTable)
    assert torch.equal(halves.weight, plain.weight)
    assert torch.equal(halves.table.rows_of(rows), plain.table.rows_of(rows))
    assert halves.table.layout() == plain.table.layout()
    new = PartialFC(SIZE, CLASSES, device=DEVICE, matmul_dtype=torch.bfloat16)
    assert isinstance(new.table, SplitTable)
    assert torch.equal(new.weight, PartialFC(SIZE, CLASSES, device=DEVICE).weight)
    halves.state_rows()["weight"].write(5, plain.weight[7:9])
    assert torch.equal(halves.weight[5:7], plain.weight[7:9])
    assert torch.equal(halves.weight[7:], plain.weight[7:])


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {
            "sampling": "all",
            "keep_bytes": 1 << 20,
        },  # exponentials are kept: kernels of one work each
        {"sampling": "random_negative", "update": "frozen"},
        {"sampling": "hard_negative"},
        {"sampling": "hash_forest"},
    ],
    ids=lambda options: str(options["sampling"]),
)
def test_other_paths_over_halves_equal_those_over_float32(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    options = options | {"matmul_dtype": torch.bfloat16, "sample_rate": 0.6}
    found = _steps(_head(monkeypatch, TritonOps, **options))
    monkeypatch.setattr(TritonOps, "fuses", lambda self, transform, dtype: False)
    errors = _errors(found, _steps(_head(monkeypatch, TritonOps, **options)))

    assert errors["weight"] < 1e-4
    assert errors["momentum"] < 0.05  # products are rounded where they are not fused
    assert errors["x"] < 0.02


def test_rows_of_coefficients_are_aligned_for_any_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = []

    def update(
        self: BlockOps, block: object, unit_Nd: Tensor, given: Coefficients, *_: Any
    ) -> None:
        samples.append((len(unit_Nd), len(given.target), len(given.own), len(given.batch)))

    monkeypatch.setattr(TritonOps, "product_update", update)
    head = _head(monkeypatch, TritonOps, sampling="all", matmul_dtype=torch.bfloat16)
    x, y = _batch(0)
    head(x, y).loss.backward()
    head.step(0.01)

    assert samples == [(64, 64, 64, 64)] * 3


def test_blocks_are_counted_by_the_bytes_that_the_kernels_hold() -> None:
    row_bytes = TritonOps().row_bytes(1024, 512, torch.bfloat16, lean=True)

    assert row_bytes == 2 * (1024 + 512 + 512)
    assert math.ceil(10_000_000 / (BLOCK_BYTES["cuda"] // row_bytes)) < 160  # 687 by torch's bytes


def test_parts_run_with_their_own_gpu_as_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    current = [0]

    @contextmanager
    def device(wanted: torch.device) -> Iterator[None]:
        before, current[0] = current[0], wanted.index
        yield
        current[0] = before

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device", device)
    threads = Threads(torch.device("cuda", 1), parallel=True)
    found = list(threads.map(lambda ops, part: (current[0], part), [(0, 4), (4, 8)]))

    assert found == [(1, [(0, 4), (4, 8)])]
    assert current == [0]
