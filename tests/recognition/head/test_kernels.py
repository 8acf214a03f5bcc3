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
from recognition.head.kernels.compiled import CompiledOps
from recognition.head.kernels.plain import FIXED_PEAK, SAFE_LOG2_SCALE, TorchOps
from recognition.head.kernels.workspace import Workspace
from tests.recognition.head.kernel_cases import DEVICE, OPS, both, close, dtypes, tolerance

ROOT = Path(__file__).parents[3]
logits = pytest.mark.parametrize(
    ("scale", "limit"), [(64.0, None), (64.0, 0.2), (64.0, -1.1), (80.0, 0.2), (1e4, None)]
)
# Powers that overflow, of own classes and of what is left out, are made and thrown away; only the
# interpreter's numpy remarks on it.
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered")


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
        close(peak, top, rtol=3e-7, atol=log2_scale * 1e-7)
    else:
        assert (peak == FIXED_PEAK).all()  # in range without looking for the largest
    power = torch.exp2(logit_CN - peak.cpu().double())
    close(mass, power.sum(0), rtol=tolerance(torch.float32, log2_scale))
    found = torch.cat([share / inverse for share, inverse in shares])
    close(found, power, rtol=tolerance(dtype, 2.0 * log2_scale), atol=1e-30)
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
    close(found, expected, rtol=tolerance(dtype, 2.0 * log2_scale), atol=1e-30)
    terms = expected * block.cosines()
    error = tolerance(torch.float32, 2.0 * log2_scale) * terms.abs().sum(1) + 1e-30
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


def test_the_cpu_takes_compiled_loops_and_cuda_the_kernels() -> None:
    assert isinstance(block_ops(torch.device("cpu"))(Workspace()), CompiledOps)
    assert block_ops(torch.device("cuda"))(Workspace()) is OPS[1]
    assert type(block_ops(torch.device("meta"))(Workspace())) is TorchOps


def test_without_numba_a_cpu_takes_torch_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "recognition.head.kernels.compiled", None)
    assert block_ops(torch.device("cpu")) is TorchOps
    assert "slower" in caplog.text


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
