"""Reading and updating rows of the table, in each form, against the definitions."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from recognition.head.kernels.block import join_halves, split_halves
from recognition.head.kernels.reference import BlockOps, tangential
from recognition.head.optim.history import IDENTITY, Missed
from recognition.head.optim.rounding import RowNoise
from recognition.head.optim.row_optimizers import RowSGD
from tests.recognition.head.kernels.kernel_cases import (
    BFLOAT16,
    block_of,
    close,
    device_of,
    dtypes,
    every_form,
)

pytestmark = pytest.mark.gpu


@pytest.mark.slow
@every_form
@dtypes
@pytest.mark.parametrize("size", [1, 48, 512, 1100])
@pytest.mark.parametrize("picked", [True, False])
def test_reads_rows_with_their_norms(
    ops: BlockOps, dtype: torch.dtype, size: int, picked: bool
) -> None:
    device = device_of(type(ops))
    weight = torch.randn(41, size, generator=torch.Generator().manual_seed(0))
    weight[12] = 0.0
    index = torch.tensor([0, 3, 12, 13, 29, 40]) if picked else None
    start, stop = (1, 6) if picked else (2, 41)
    expected = weight[start:stop] if index is None else weight[index[start:stop]]
    on_device = None if index is None else index.to(device)
    block = block_of(start, stop, on_device, weight=weight.to(device))
    factor, inverse = ops.read_rows(block, dtype)

    assert factor.dtype == dtype
    close(factor, expected, rtol=0.0 if dtype == torch.float32 else BFLOAT16)
    close(inverse, 1.0 / expected.double().norm(dim=1).clamp_min(1e-12), rtol=1e-6)


@pytest.mark.slow
@every_form
@dtypes
@pytest.mark.parametrize("size", [1, 48, 1100])
@pytest.mark.parametrize("picked", [True, False])
def test_targets_are_added_to_their_rows_alone(
    ops: BlockOps, dtype: torch.dtype, size: int, picked: bool
) -> None:
    device = device_of(type(ops))
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(41, size, generator=generator) * 3.0
    index = torch.tensor([0, 3, 12, 13, 29, 40]) if picked else None
    start, rows = 1, 5
    of_block = weight[start : start + rows] if index is None else weight[index[start:]]
    gradient = torch.randn(rows, size, generator=generator).to(dtype)
    target = torch.tensor([4, -1, 0, 5, 2, -9])  # the block has rows 0 to 4
    added = torch.randn(len(target), size, generator=generator)
    added[1] = math.nan
    expected = gradient.double()
    for n in (0, 2, 4):
        expected[target[n]] += added[n].double() / of_block[target[n]].double().norm()
    found = gradient.to(device)
    on_device = None if index is None else index.to(device)
    block = block_of(start, start + rows, on_device, weight=weight.to(device))
    ops.add_targets(block, found, (target + start).to(device), added.to(device))

    if dtype == torch.float32:
        close(found, expected, rtol=1e-5, atol=1e-6)
    else:  # the addend may be rounded first
        close(
            found, expected, rtol=BFLOAT16, atol=BFLOAT16 * float(added[[0, 2, 4]].abs().max()) / 6
        )
    assert torch.equal(found.cpu()[[1, 3]], gradient[[1, 3]])


@pytest.mark.slow
@every_form
@dtypes
def test_an_update_is_perpendicular_to_its_row(ops: BlockOps, dtype: torch.dtype) -> None:
    device = device_of(type(ops))
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(9, 64, generator=generator) * 5.0
    weight[3] = 0.0
    gradient = torch.randn(9, 64, generator=generator).to(dtype)
    found, velocity = weight.clone().to(device), torch.zeros(9, 64, device=device)
    block = block_of(0, 9, None, weight=found, momentum=velocity)
    ops.update_rows_sgd(block, gradient.clone().to(device), RowSGD(0.9, 0.0), 1.0, None)
    along = (velocity.cpu().double() * weight.double()).sum(1)

    assert (along.abs() <= 1e-6 * velocity.cpu().norm(dim=1) * weight.norm(dim=1)).all()
    assert torch.equal(found[3].cpu(), -gradient[3].float())  # a row of zeros has no direction


@pytest.mark.slow
@every_form
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("size", [1, 48, 1100])
@pytest.mark.parametrize("picked", [True, False])
@pytest.mark.parametrize("gradient_dtype", [torch.float32, torch.bfloat16], ids=str)
def test_update_equals_torch_sgd_on_the_rows_alone(
    ops: BlockOps, nesterov: bool, size: int, picked: bool, gradient_dtype: torch.dtype
) -> None:
    device = device_of(type(ops))
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(41, size, generator=generator).to(device)
    velocity = torch.zeros_like(weight)
    index = torch.tensor([0, 3, 12, 13, 29, 40], device=device) if picked else None
    start, stop = (1, 6) if picked else (2, 40)
    touched = torch.arange(41, device=device)[start:stop] if index is None else index[start:stop]
    before = weight.clone()
    parameter = torch.nn.Parameter(weight[touched].double())
    stock = torch.optim.SGD([parameter], 0.1, 0.9, weight_decay=0.01, nesterov=nesterov)
    for _ in range(3):
        gradient = torch.randn(stop - start, size, generator=generator).to(gradient_dtype)
        row = parameter.detach()
        grad_unit = gradient.to(device).double()
        along = (grad_unit * row).sum(1) / row.norm(dim=1).clamp_min(1e-12).square()
        parameter.grad = grad_unit - along.unsqueeze(1) * row
        stock.step()
        block = block_of(start, stop, index, weight=weight, momentum=velocity)
        ops.update_rows_sgd(block, gradient.to(device), RowSGD(0.9, 0.01, nesterov), 0.1, None)
        block.write()

    close(weight[touched], parameter.detach().cpu(), rtol=1e-5, atol=2e-6)
    close(velocity[touched], stock.state[parameter]["momentum_buffer"].cpu(), 1e-5, atol=2e-6)
    others = torch.ones(41, dtype=torch.bool, device=device).index_fill_(0, touched, False)
    assert torch.equal(weight[others], before[others])
    assert not velocity[others].any()


@pytest.mark.slow
@every_form
@pytest.mark.parametrize("picked", [True, False])
def test_update_rounds_momentum_with_the_bits_of_its_rows(ops: BlockOps, picked: bool) -> None:
    """To the bit: with these numbers float32 arithmetic is exact, fused or not."""
    device = device_of(type(ops))
    generator = torch.Generator().manual_seed(0)
    size, start, stop = 1100, 3, 24
    weight = torch.randint(-64, 64, (41, size), generator=generator) / 8.0
    momentum = (torch.randint(-64, 64, (41, size), generator=generator) / 8.0).bfloat16()
    gradient = torch.randint(-999, 999, (stop - start, size), generator=generator) / 512.0
    # Exactly perpendicular: each is zero in the columns where the other is not.
    weight[:, 1::2], gradient[:, ::2] = 0.0, 0.0
    momentum[6, 3], momentum[7, 1000], momentum[8, 0] = math.nan, math.inf, -math.inf
    gradient[4, 7] = math.nan
    index = torch.arange(1, 41) if picked else None
    touched = torch.arange(41)[start:stop] if index is None else index[start:stop]
    noise = RowNoise(5, 9, touched + 3_000_000_000)
    sgd = RowSGD(0.5, 0.25, momentum_dtype=torch.bfloat16)
    expected, expected_momentum = weight.clone(), momentum.clone()
    reference = block_of(start, stop, index, weight=expected, momentum=expected_momentum)
    expected_gradient = tangential(gradient.clone(), reference.read("weight"))
    sgd.update(reference.read("weight"), reference.read_state(), expected_gradient, 0.125)
    reference.write(noise)
    found, found_momentum = weight.to(device), momentum.to(device)
    on_device = None if index is None else index.to(device)
    block = block_of(start, stop, on_device, weight=found, momentum=found_momentum)
    if isinstance(noise.row, Tensor):
        noise = replace(noise, row=noise.row.to(device))
    ops.update_rows_sgd(block, gradient.to(device), sgd, 0.125, noise)
    block.write(noise)

    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(
        found_momentum.cpu(), expected_momentum, rtol=0, atol=0, equal_nan=True
    )


@pytest.mark.slow
@every_form
@pytest.mark.parametrize("picked", [True, False])
@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("size", [1, 48, 1100])
def test_missed_steps_are_made_up_for_in_closed_form(
    ops: BlockOps, picked: bool, split: bool, size: int
) -> None:
    device = device_of(type(ops))
    generator = torch.Generator().manual_seed(size)
    weight, momentum = torch.randn(2, 41, size, generator=generator)
    low = None
    kept = weight.clone().to(device)
    if split:
        kept, low = split_halves(kept)
    velocity = momentum.clone().to(device)
    index = torch.tensor([0, 3, 12, 13, 29, 40]) if picked else None
    start, stop = (1, 6) if picked else (2, 40)
    touched = torch.arange(41)[start:stop] if index is None else index[start:stop]
    first = torch.arange(len(touched)) % 4  # the last of four steps is yet to come: none missed
    products = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    products[3] = torch.tensor(IDENTITY)
    missed = Missed(products.to(device), velocity.new_zeros(3), first.short().to(device), 3)
    on_device = None if index is None else index.to(device)
    block = block_of(start, stop, on_device, weight=kept, momentum=velocity)
    block.low = low if low is None or picked else low[start:stop]
    before = kept.clone(), velocity.clone()
    ops.coast(block, RowSGD(0.9, 0.01), missed, None)

    found = kept if low is None else join_halves(kept, low)
    pair = torch.stack([weight[touched], momentum[touched]], 1).double()
    expected = products[first].view(-1, 2, 2) @ pair
    close(found[touched.to(device)], expected[:, 0], rtol=1e-5, atol=1e-5)
    close(velocity[touched.to(device)], expected[:, 1], rtol=1e-5, atol=1e-5)
    still = torch.ones(41, dtype=torch.bool).index_fill_(0, touched[first < 3], False).to(device)
    for table, as_it_was in zip((kept, velocity), before, strict=True):
        assert torch.equal(table[still], as_it_was[still])


@pytest.mark.slow
@every_form
@pytest.mark.parametrize("picked", [True, False])
def test_momentum_that_coasts_is_rounded_with_the_bits_of_its_rows(
    ops: BlockOps, picked: bool
) -> None:
    """To the bit: with these numbers float32 arithmetic is exact, fused or not."""
    device = device_of(type(ops))
    generator = torch.Generator().manual_seed(0)
    weight = torch.randint(-64, 64, (41, 300), generator=generator) / 8.0
    momentum = (torch.randint(-64, 64, (41, 300), generator=generator) / 8.0).bfloat16()
    index = torch.arange(1, 41) if picked else None
    touched = torch.arange(3, 24) if index is None else index[3:24]
    products = torch.tensor([[0.5, -0.25, 0.0078125, 0.75]], dtype=torch.float64)
    sgd, found = RowSGD(0.5, 0.25, momentum_dtype=torch.bfloat16), []
    for form, where in ((BlockOps(), torch.device("cpu")), (ops, device)):
        tables = weight.to(where).clone(), momentum.to(where).clone()
        on_device = None if index is None else index.to(where)
        block = block_of(3, 24, on_device, weight=tables[0], momentum=tables[1])
        missed = Missed(
            products.to(where), tables[0].new_zeros(1),
            torch.zeros(21, dtype=torch.int16, device=where), 1,
        )  # fmt: skip
        noise = RowNoise(5, -9, (touched + 3_000_000_000).to(where))
        form.coast(block, sgd, missed, noise)
        found.append([table.cpu() for table in tables])

    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(found[0][1], momentum)


@every_form
def test_rows_beyond_two_to_the_31_numbers_are_found(ops: BlockOps) -> None:
    device = device_of(type(ops))
    size = 2048
    rows = 2**31 // size + 5
    weight = torch.empty(rows, size, device=device)  # 8 GiB of addresses; three rows are touched
    weight[rows - 3 :] = torch.arange(3.0, device=device).unsqueeze(1) + 1.0
    block = block_of(rows - 3, rows, None, weight=weight)
    factor, inverse = (tensor.clone() for tensor in ops.read_rows(block, torch.bfloat16))
    index = torch.arange(rows - 3, rows, device=device)
    by_index, _ = ops.read_rows(block_of(0, 3, index, weight=weight), torch.bfloat16)

    assert factor[:, 0].tolist() == [1.0, 2.0, 3.0]
    assert torch.equal(by_index, factor)
    close(inverse, torch.tensor([1.0, 1 / 2, 1 / 3]) / math.sqrt(size), rtol=1e-6)
