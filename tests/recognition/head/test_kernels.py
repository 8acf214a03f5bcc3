"""The block operations, in torch and in Triton kernels, against float64 by their definitions.

Without a GPU the kernels run in Triton's interpreter (`tests/conftest.py`), else compiled.
"""

import math
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from recognition.head.kernels import BlockOps, block_ops
from recognition.head.kernels.plain import FIXED_PEAK, SAFE_LOG2_SCALE, TorchOps
from recognition.head.kernels.workspace import Workspace
from recognition.head.rounding import RowNoise
from recognition.head.row_optimizers import RowSGD

pytest.importorskip("triton", reason="needs Triton, which torch brings on Linux")
from recognition.head.kernels import fused

ROOT = Path(__file__).parents[3]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
OPS: list[BlockOps] = [TorchOps(), fused]
both = pytest.mark.parametrize("ops", OPS, ids=["torch", "triton"])
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
logits = pytest.mark.parametrize(
    ("scale", "limit"), [(64.0, None), (64.0, 0.2), (64.0, -1.1), (80.0, 0.2), (1e4, None)]
)
# Powers that overflow, of own classes and of what is left out, are made and thrown away; only the
# interpreter's numpy remarks on it.
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered")

# Rounded to the nearest, a bfloat16 is off by 2^-9 of its power of two at most; the interpreter
# cuts the bits off instead, which is up to 2^-8 of the power of two, 2^-7 of the number.
BFLOAT16 = 2.0**-7


def _tolerance(dtype: torch.dtype, log2_scale: float = 0.0) -> float:
    """Relative: a logit in float32 is off by some 2^-24 of `log2_scale`, its power by as much."""
    return 4e-6 + 4.0 * log2_scale * 2.0**-24 + (BFLOAT16 if dtype == torch.bfloat16 else 0.0)


def _close(found: torch.Tensor, expected: torch.Tensor, rtol: float, atol: float = 0.0) -> None:
    found, expected = found.cpu().double(), expected.double()
    torch.testing.assert_close(found, expected, rtol=rtol, atol=atol)


@dataclass
class Block:
    """Products and inverse norms of R rows by N samples, the samples' own rows among them."""

    product: torch.Tensor
    inverse: torch.Tensor
    own: torch.Tensor

    @classmethod
    def of(cls, rows: int, samples: int, dtype: torch.dtype, seed: int) -> "Block":
        generator = torch.Generator().manual_seed(seed)
        inverse = torch.rand(rows, generator=generator) * 20.0 + 0.1
        cosine = torch.rand(rows, samples, generator=generator) * 2.0 - 1.0
        own = torch.randint(-2 * rows - 1, 3 * rows + 1, (samples,), generator=generator)
        own[: samples // 3] = rows // 2  # samples of one class
        own[samples // 3] = rows  # just outside
        product = (cosine / inverse.unsqueeze(1)).to(dtype)
        return cls(product.to(DEVICE), inverse.to(DEVICE), own.to(DEVICE))

    def cosines(self) -> torch.Tensor:
        return self.product.cpu().double() * self.inverse.cpu().double().unsqueeze(1)

    def is_own(self) -> torch.Tensor:
        return torch.arange(len(self.inverse)).unsqueeze(1) == self.own.cpu()

    def left_out(self, limit: float | None) -> torch.Tensor:
        """Return where the float32 cosine is above the limit: there is no tolerance on a step."""
        if limit is None:
            return torch.zeros(self.product.shape, dtype=torch.bool)
        return self.product.cpu() * self.inverse.cpu().unsqueeze(1) > limit


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
    _close(factor, expected, rtol=0.0 if dtype == torch.float32 else BFLOAT16)
    _close(inverse, 1.0 / expected.double().norm(dim=1).clamp_min(1e-12), rtol=1e-6)


@both
@dtypes
@pytest.mark.parametrize("rows", [1, 300])
@pytest.mark.parametrize("samples", [5, 131])
@logits
def test_softmax_over_blocks_is_the_dense_one(
    ops: BlockOps, dtype: torch.dtype, rows: int, samples: int, limit: float | None, scale: float
) -> None:
    log2_scale = scale / math.log(2.0)
    peak = torch.full((samples,), -1e30, device=DEVICE)
    mass = torch.zeros(samples, device=DEVICE)
    logit_CN = torch.empty(0, samples, dtype=torch.float64)
    shares: list[tuple[torch.Tensor, torch.Tensor]] = []
    for number, size in enumerate([rows, 7, rows]):
        block = Block.of(size, samples, dtype, number)
        product = block.product.clone()
        share, shrink = ops.softmax_block(
            block.product, block.inverse, block.own, log2_scale, limit, peak, mass
        )
        assert torch.equal(block.product, product)
        assert share.dtype == dtype
        left_out = block.is_own() | block.left_out(limit)
        logit = (block.cosines() * log2_scale).masked_fill(left_out, -math.inf)
        logit_CN = torch.cat([logit_CN, logit])
        shares = [(part * shrink.cpu().double(), of) for part, of in shares]
        shares.append((share.cpu().double(), block.inverse.cpu().double().unsqueeze(1)))

    assert peak.isfinite().all()
    if log2_scale > SAFE_LOG2_SCALE:
        top = logit_CN.amax(0).clamp_min(-1e30)
        _close(peak, top, rtol=3e-7, atol=log2_scale * 1e-7)
    else:
        assert (peak == FIXED_PEAK).all()  # in range without looking for the largest
    power = torch.exp2(logit_CN - peak.cpu().double())
    _close(mass, power.sum(0), rtol=_tolerance(torch.float32, log2_scale))
    found = torch.cat([share / inverse for share, inverse in shares])
    _close(found, power, rtol=_tolerance(dtype, 2.0 * log2_scale), atol=1e-30)
    if limit == -1.1:
        assert not mass.any()
        assert not found.any()


@both
@dtypes
@pytest.mark.parametrize("rows", [1, 300])
@pytest.mark.parametrize("samples", [1, 260])
@logits
@pytest.mark.parametrize("parts", [1, 3])
def test_slopes_are_the_definition(
    ops: BlockOps,
    dtype: torch.dtype,
    rows: int,
    samples: int,
    limit: float | None,
    scale: float,
    parts: int,
) -> None:
    log2_scale = scale / math.log(2.0)
    block = Block.of(rows, samples, dtype, 0)
    generator = torch.Generator().manual_seed(1)
    negative, positive = torch.randn(2, samples, generator=generator)
    absent = torch.rand(rows, parts, generator=generator) < 0.3 if parts > 1 else None
    part = torch.randint(0, parts, (samples,), generator=generator)
    left_out = block.left_out(limit)
    if absent is not None:
        left_out |= absent[:, part]
    # As of a softmax over these rows and others: no negative's power exceeds 1, but those of own
    # classes and of what is left out may overflow.
    logit = block.cosines() * log2_scale
    total = logit.masked_fill(left_out | block.is_own(), -math.inf).amax(0).clamp_min(-1e4)
    log2_total = total.float() + torch.rand(samples, generator=generator)
    slope, radial = ops.slope_block(
        block.product,
        block.inverse,
        block.own,
        log2_scale,
        limit,
        log2_total.to(DEVICE),
        negative.to(DEVICE),
        positive.to(DEVICE),
        absent_RK=None if absent is None else absent.to(DEVICE),
        part_N=None if absent is None else part.to(DEVICE),
    )

    expected = (negative * torch.exp2(logit - log2_total)).masked_fill(left_out, 0.0)
    own = block.is_own()
    if absent is not None:
        own &= ~absent[:, part]
    expected = torch.where(own, positive.double(), expected.masked_fill(block.is_own(), 0.0))
    inverse = block.inverse.cpu().double()
    assert slope.dtype == dtype
    found = slope.cpu() / inverse.unsqueeze(1)
    _close(found, expected, rtol=_tolerance(dtype, 2.0 * log2_scale), atol=1e-30)
    terms = expected * block.cosines()
    error = _tolerance(torch.float32, 2.0 * log2_scale) * terms.abs().sum(1) + 1e-30
    found = radial.cpu() / inverse.square()
    assert ((found - terms.sum(1)).abs() <= error).all()


@both
@dtypes
def test_works_in_place_to_the_same_bits(ops: BlockOps, dtype: torch.dtype) -> None:
    block, samples = Block.of(70, 45, dtype, 0), 45
    vectors = torch.rand(3, samples, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    results = []
    for in_place in (False, True):
        peak, mass = torch.full_like(vectors[0], -1e30), torch.zeros_like(vectors[0])
        for own_first in (0, 3):
            product, own = block.product.clone(), block.own - own_first
            share, shrink = ops.softmax_block(
                product, block.inverse, own, 90.0, 0.9, peak, mass, in_place=in_place
            )
            assert (share.data_ptr() == product.data_ptr()) == in_place
        share = share.clone()  # it holds until slopes are made
        product = block.product.clone()
        slope, radial = ops.slope_block(
            product, block.inverse, block.own, 2.0, 0.9, *vectors, in_place=in_place
        )
        assert (slope.data_ptr() == product.data_ptr()) == in_place
        results.append([peak, mass, share, shrink, slope.clone(), radial])
    for found, expected in zip(*results, strict=True):
        assert torch.equal(found, expected)


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

    _close(weight[touched], parameter.detach().cpu(), rtol=1e-5, atol=2e-6)
    _close(velocity[touched], stock.state[parameter]["momentum_buffer"].cpu(), 1e-5, atol=2e-6)
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
def test_a_nan_of_the_products_shows_in_the_mass_and_in_the_slopes(ops: BlockOps) -> None:
    block, samples = Block.of(40, 6, torch.float32, 0), 6
    block.product[17, 3], block.own[3] = math.nan, 4
    peak, mass = (torch.full((samples,), value, device=DEVICE) for value in (-1e30, 0.0))
    ops.softmax_block(block.product, block.inverse, block.own, 90.0, 0.5, peak, mass)
    ones = torch.ones(samples, device=DEVICE)
    _, radial = ops.slope_block(
        block.product, block.inverse, block.own, 90.0, 0.5, 90.0 * ones, ones, ones
    )

    assert mass.isnan().tolist() == [False, False, False, True, False, False]
    assert radial.isnan().nonzero().tolist() == [[17]]


@both
@pytest.mark.parametrize(("rows", "samples"), [(0, 3), (3, 0)])
def test_an_empty_block_changes_nothing(ops: BlockOps, rows: int, samples: int) -> None:
    weight = torch.ones(5, 4, device=DEVICE)
    velocity = torch.ones_like(weight)
    index = torch.arange(rows, device=DEVICE)
    factor, inverse = ops.read_rows(weight, index, 0, rows, torch.bfloat16)
    own = torch.zeros(samples, dtype=torch.int64, device=DEVICE)
    product = torch.ones(rows, samples, device=DEVICE)
    peak, mass = torch.full((samples,), -1e30, device=DEVICE), torch.ones(samples, device=DEVICE)
    share, shrink = ops.softmax_block(product, inverse, own, 9.0, None, peak, mass)
    slope, radial = ops.slope_block(product, inverse, own, 9.0, None, mass, mass, mass)
    if rows == 0:
        ops.update_rows_sgd(
            weight, velocity, index, 0, 0, factor, radial, lr=1.0, momentum=0.5, weight_decay=1.0
        )

    assert factor.shape == (rows, 4)
    assert share.shape == slope.shape == (rows, samples)
    assert torch.equal(shrink, torch.ones_like(peak))
    assert torch.equal(mass, torch.ones_like(peak))
    assert (peak == -1e30).all()
    assert torch.equal(radial, torch.zeros(rows, device=DEVICE))
    assert torch.equal(weight, torch.ones_like(weight))
    assert torch.equal(velocity, torch.ones_like(weight))


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
    _close(inverse, torch.tensor([1.0, 1 / 2, 1 / 3]) / math.sqrt(size), rtol=1e-6)


def test_the_cpu_takes_torch_and_cuda_the_kernels() -> None:
    assert isinstance(block_ops(torch.device("cpu"), Workspace()), TorchOps)
    assert block_ops(torch.device("cuda"), Workspace()) is fused


def test_every_kernel_compiles_for_hopper(tmp_path: Path) -> None:
    """In a process of its own: a process either interprets kernels or compiles them."""
    environment = {key: os.environ[key] for key in os.environ if key != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    script = Path(__file__).with_name("compile_kernels.py")
    result = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, check=False
    )

    assert result.returncode == 0, result.stderr
    launched = {"_read_rows", "_update_rows_sgd", "_block_slopes", "_block_shares"}
    launched |= {"_block_peaks", "_merge_peaks", "_merge_masses"}
    assert set(result.stdout.split()) == launched
