"""The whole head on kernels against the whole head on torch."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from recognition.head import PartialFC, RowAdamW, RowOptimizer, RowSGD, arcface, build_loss
from recognition.head.kernels.cpu import CompiledOps
from recognition.head.kernels.reference import BlockOps
from tests.recognition.head.kernels import kernel_cases
from tests.recognition.head.kernels.kernel_cases import device_of

cuda = pytest.importorskip("recognition.head.kernels.cuda", reason="needs Triton")

pytestmark = pytest.mark.gpu
CLASSES, SIZE, SAMPLES = 83, 24, 9
OPTIMIZERS = [
    RowSGD(),
    RowSGD(nesterov=True, momentum_dtype=torch.bfloat16),
    RowSGD(momentum=0.0),
    # An epsilon of the gradients' size. Where it is smaller than a gradient's rounding error, the
    # error decides on the update's size and sign: up to 1e-4 of the weights in these tests.
    RowAdamW(eps=10.0),
]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Triton's interpreter serves one thread; `test_threads` has several."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


on_kernels = pytest.mark.parametrize(
    "kernels", [cuda.TritonOps, CompiledOps], ids=["triton", "compiled"]
)
BLOCK_BYTES = 20 * 12 * (SAMPLES + SIZE)  # blocks of 20 classes, the last one of 3


def _three_steps(
    ops: type[BlockOps], device: torch.device, monkeypatch: pytest.MonkeyPatch, **options: object
) -> dict[str, Tensor]:
    """Return loss, gradients and state, on the CPU, of three steps with these operations."""
    monkeypatch.setattr("recognition.head.online_softmax.threads.block_ops", lambda device: ops)
    settings = {"loss": arcface(0.5), "block_bytes": BLOCK_BYTES, "device": device} | options
    head = PartialFC(SIZE, CLASSES, sample_rate=0.3, **settings)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        x = torch.randn(SAMPLES, SIZE, generator=generator).to(device).requires_grad_()
        y = torch.randint(0, CLASSES, (SAMPLES,), generator=generator)
        for part in (slice(0, 6), slice(6, SAMPLES)):  # two micro-batches: unions and absences
            output = head(x[part], y[part])
            output.loss.backward()
        norm, samples = head.gradient_norm(), head.sample_figures()
        head.step(0.01)
    assert x.grad is not None
    found = {"loss": output.loss.detach(), "norm": norm, "x": x.grad} | samples
    found |= head.state_tensors()
    return {name: tensor.cpu() for name, tensor in found.items()}


@pytest.mark.slow
@on_kernels
@pytest.mark.parametrize("sampling", ["all", "random_negative"])
@pytest.mark.parametrize("placement", ["sharded", "host"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_steps_equal_those_of_torch(
    monkeypatch: pytest.MonkeyPatch,
    kernels: type[BlockOps],
    sampling: str,
    placement: str,
    optimizer: RowOptimizer,
) -> None:
    options = {"sampling": sampling, "placement": placement, "optimizer": optimizer}
    if getattr(optimizer, "momentum_dtype", None) == torch.bfloat16:
        # Kernels make up for missed steps in the table, and round the momentum there once more.
        options["update"] = "frozen"
    expected = _three_steps(BlockOps, device_of(kernels), monkeypatch, **options)
    found = _three_steps(kernels, device_of(kernels), monkeypatch, **options)
    for name, tensor in expected.items():
        # float32 sums in another order, after three steps: up to 6e-6. A bfloat16 momentum may
        # then round to a neighbouring 8-bit number, and weights follow it at lr 0.01.
        rounded = getattr(optimizer, "momentum_dtype", None) == torch.bfloat16
        relative = 2**-7 if tensor.dtype == torch.bfloat16 else 3e-4 if rounded else 3e-5
        bound = relative * float(tensor.abs().max())
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=bound, msg=name)


@pytest.mark.slow
@on_kernels
@pytest.mark.parametrize("name", ["subcenter_arcface", "curricularface", "d_softmax"])
def test_losses_without_kernels_use_the_torch_form(
    monkeypatch: pytest.MonkeyPatch, kernels: type[BlockOps], name: str
) -> None:
    options = {"batch_rate": 0.5} if name == "d_softmax" else {}
    loss = build_loss(name, **options)
    expected = _three_steps(BlockOps, device_of(kernels), monkeypatch, loss=loss)
    found = _three_steps(kernels, device_of(kernels), monkeypatch, loss=loss)
    for key, tensor in expected.items():
        bound = 3e-5 * float(tensor.abs().max())
        torch.testing.assert_close(found[key], tensor, rtol=0, atol=bound, msg=key)


def test_each_form_is_tested_on_its_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine with a GPU: compiled loops crash on memory that is not the CPU's."""
    monkeypatch.setattr(kernel_cases, "DEVICE", torch.device("cuda"))
    devices = [device_of(form).type for form in (BlockOps, cuda.TritonOps, CompiledOps)]
    assert devices == ["cuda", "cuda", "cpu"]
