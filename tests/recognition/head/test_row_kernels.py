"""Reading and stepping rows of the table, in torch and in Triton, against their definitions."""

import math

import pytest
import torch

from recognition.head.kernels import BlockOps
from recognition.head.rounding import RowNoise
from recognition.head.row_optimizers import RowSGD
from tests.recognition.head.kernel_cases import BFLOAT16, DEVICE, both, close, dtypes


@both
@dtypes
@pytest.mark.parametrize("size", [1, 48, 512, 1100])
@pytest.mark.parametrize("picked", [True, False])
def test_reads_rows_with_their_norms(
    ops: BlockOps, dtype: torch.dtype, size: int, picked: bool
) -> None:
    weight = torch.randn(41, size, generator=torch.Generator().manual_seed(0))
    weight[12] = 0.0
    index = torch.tensor([0, 3, 12, 13, 29, 40]) if picked else None
    start, stop = (1, 6) if picked else (2, 41)
    expected = weight[start:stop] if index is None else weight[index[start:stop]]
    on_device = None if index is None else index.to(DEVICE)
    factor, inverse = ops.read_rows(weight.to(DEVICE), on_device, start, stop, dtype)

    assert factor.dtype == dtype
    close(factor, expected, rtol=0.0 if dtype == torch.float32 else BFLOAT16)
    close(inverse, 1.0 / expected.double().norm(dim=1).clamp_min(1e-12), rtol=1e-6)


@both
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("size", [1, 48, 1100])
@pytest.mark.parametrize("picked", [True, False])
@pytest.mark.parametrize("gradient_dtype", [torch.float32, torch.bfloat16], ids=str)
def test_update_is_that_of_torch_sgd_on_the_rows_alone(
    ops: BlockOps, nesterov: bool, size: int, picked: bool, gradient_dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(41, size, generator=generator).to(DEVICE)
    velocity = torch.zeros_like(weight)
    index = torch.tensor([0, 3, 12, 13, 29, 40], device=DEVICE) if picked else None
    start, stop = (1, 6) if picked else (2, 40)
    touched = torch.arange(41, device=DEVICE)[start:stop] if index is None else index[start:stop]
    before = weight.clone()
    parameter = torch.nn.Parameter(weight[touched].double())
    stock = torch.optim.SGD([parameter], 0.1, 0.9, weight_decay=0.01, nesterov=nesterov)
    for _ in range(3):
        gradient = torch.randn(stop - start, size, generator=generator).to(gradient_dtype)
        radial = torch.randn(stop - start, generator=generator)
        parameter.grad = gradient.to(DEVICE).double() - parameter.detach() * radial.to(
            DEVICE
        ).unsqueeze(1)
        stock.step()
        ops.update_rows_sgd(
            weight,
            velocity,
            index,
            start,
            stop,
            gradient.to(DEVICE),
            radial.to(DEVICE),
            lr=0.1,
            momentum=0.9,
            weight_decay=0.01,
            nesterov=nesterov,
        )

    close(weight[touched], parameter.detach().cpu(), rtol=1e-5, atol=2e-6)
    close(velocity[touched], stock.state[parameter]["momentum_buffer"].cpu(), 1e-5, atol=2e-6)
    others = torch.ones(41, dtype=torch.bool, device=DEVICE).index_fill_(0, touched, False)
    assert torch.equal(weight[others], before[others])
    assert not velocity[others].any()


@both
@pytest.mark.parametrize("picked", [True, False])
def test_update_rounds_momentum_with_the_bits_of_its_rows(ops: BlockOps, picked: bool) -> None:
    """To the bit: the numbers are such that float32 arithmetic is exact, fused or not."""
    generator = torch.Generator().manual_seed(0)
    size, start, stop = 1100, 3, 24
    weight = torch.randint(-64, 64, (41, size), generator=generator) / 8.0
    momentum = (torch.randint(-64, 64, (41, size), generator=generator) / 8.0).bfloat16()
    gradient = torch.randint(-999, 999, (stop - start, size), generator=generator) / 512.0
    radial = torch.randint(-2, 3, (stop - start,), generator=generator) / 2.0
    gradient[4, 7], gradient[5, 1000], gradient[6, 0] = math.nan, math.inf, -math.inf
    index = torch.arange(1, 41) if picked else None
    touched = torch.arange(41)[start:stop] if index is None else index[start:stop]
    noise = RowNoise(5, 9, touched + 3_000_000_000)
    weight_rows, momentum_rows = weight[touched], momentum[touched]
    RowSGD(0.5, 0.25, momentum_dtype=torch.bfloat16).update(
        weight_rows,
        {"momentum": momentum_rows},
        gradient - radial.unsqueeze(1) * weight_rows,
        0.125,
        noise,
    )
    expected = weight.index_copy(0, touched, weight_rows)
    expected_momentum = momentum.index_copy(0, touched, momentum_rows)
    found, found_momentum = weight.to(DEVICE), momentum.to(DEVICE)
    ops.update_rows_sgd(
        found,
        found_momentum,
        None if index is None else index.to(DEVICE),
        start,
        stop,
        gradient.to(DEVICE),
        radial.to(DEVICE),
        lr=0.125,
        momentum=0.5,
        weight_decay=0.25,
        noise=RowNoise(noise.seed, noise.step, noise.class_id.to(DEVICE)),
    )

    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(
        found_momentum.cpu(), expected_momentum, rtol=0, atol=0, equal_nan=True
    )


@both
def test_rows_beyond_two_to_the_31_numbers_are_found(ops: BlockOps) -> None:
    size = 2048
    rows = 2**31 // size + 5
    weight = torch.empty(rows, size, device=DEVICE)  # 8 GiB of addresses; three rows are touched
    weight[rows - 3 :] = torch.arange(3.0, device=DEVICE).unsqueeze(1) + 1.0
    factor, inverse = ops.read_rows(weight, None, rows - 3, rows, torch.bfloat16)
    index = torch.arange(rows - 3, rows, device=DEVICE)
    by_index, _ = ops.read_rows(weight, index, 0, 3, torch.bfloat16)

    assert factor[:, 0].tolist() == [1.0, 2.0, 3.0]
    assert torch.equal(by_index, factor)
    close(inverse, torch.tensor([1.0, 1 / 2, 1 / 3]) / math.sqrt(size), rtol=1e-6)
