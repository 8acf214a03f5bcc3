"""The head on a GPU against the head on the CPU. Needs the hardware; nothing else here does."""

import pytest
import torch
from torch import Tensor

from recognition.head import SAMPLINGS, HeadOutput, PartialFC, arcface

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

CLASSES, SIZE, SAMPLES = 5000, 64, 32


def _batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(SAMPLES, SIZE, generator=generator)
    return x, torch.randint(0, CLASSES, (SAMPLES,), generator=generator)


def _three_steps(device: str, sampling: str) -> tuple[PartialFC, HeadOutput, Tensor]:
    head = PartialFC(SIZE, CLASSES, sampling=sampling, loss=arcface(0.5), device=device)
    x, y = _batch()
    x = x.to(device).requires_grad_()
    for _ in range(3):
        x.grad = None
        output = head(x, y)
        output.loss.backward()
        head.step(0.01)
    assert x.grad is not None
    return head, output, x.grad.cpu()


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_steps_as_on_the_cpu(sampling: str) -> None:
    on_cpu, cpu_output, cpu_gradient = _three_steps("cpu", sampling)
    on_gpu, gpu_output, gpu_gradient = _three_steps("cuda", sampling)

    assert gpu_output.active_classes == cpu_output.active_classes
    assert gpu_output.loss.item() == pytest.approx(cpu_output.loss.item(), rel=1e-5)
    untouched = (on_cpu.state_tensors()["momentum"] == 0).all(1)
    assert torch.equal(
        untouched, (on_gpu.state_tensors()["momentum"] == 0).all(1).cpu()
    )  # the same active sets
    assert torch.equal(on_gpu.weight.cpu()[untouched], on_cpu.weight[untouched])
    for found, expected in [
        (gpu_gradient, cpu_gradient),
        (on_gpu.weight.cpu(), on_cpu.weight),
        (on_gpu.state_tensors()["momentum"].cpu(), on_cpu.state_tensors()["momentum"]),
    ]:
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * float(expected.max()))


def test_a_step_over_all_classes_never_makes_the_host_wait() -> None:
    head = PartialFC(SIZE, CLASSES, sampling="all", device="cuda")
    x, y = (tensor.cuda() for tensor in _batch())
    x.requires_grad_()
    torch.cuda.set_sync_debug_mode("error")
    try:
        head(x, y, [SAMPLES]).loss.backward()
        head.gradients_finite()
        head.step(0.01)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("label", [-1, CLASSES])
def test_a_label_out_of_range_on_the_gpu_makes_the_loss_nan(label: int) -> None:
    head = PartialFC(SIZE, CLASSES, device="cuda")
    x, y = (tensor.cuda() for tensor in _batch())
    y[3] = label
    loss = head(x, y).loss
    loss.backward()

    assert loss.isnan()
    assert not head.gradients_finite()
