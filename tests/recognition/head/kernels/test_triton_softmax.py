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
from torch import Tensor

from recognition.head.kernels.block import LogitTransform
from recognition.head.kernels.build import block_ops
from recognition.head.kernels.cpu import CompiledOps
from recognition.head.kernels.reference import BlockOps
from recognition.head.optim.row_optimizers import RowSGD
from tests.recognition.head.kernels.kernel_cases import (
    OPS,
    block_of,
    close,
    device_of,
    dtypes,
    every_form,
    tolerance,
)

ROOT = Path(__file__).parents[4]
logits = pytest.mark.parametrize(
    ("scale", "limit"), [(64.0, None), (64.0, 0.2), (64.0, -1.1), (80.0, 0.2), (1e4, None)]
)
# Powers of target classes and of filtered negatives may overflow before they are discarded; only
# the interpreter's NumPy warns of it.
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered"),
]


@dataclass
class Products:
    """Products and inverse norms of R rows by N samples, and each sample's target row."""

    product: Tensor
    inverse: Tensor
    target: Tensor

    @classmethod
    def of(
        cls, rows: int, samples: int, dtype: torch.dtype, seed: int, device: torch.device
    ) -> "Products":
        generator = torch.Generator().manual_seed(seed)
        inverse = torch.rand(rows, generator=generator) * 20.0 + 0.1
        cosine = torch.rand(rows, samples, generator=generator) * 2.0 - 1.0
        target = torch.randint(-2 * rows - 1, 3 * rows + 1, (samples,), generator=generator)
        target[: samples // 3] = rows // 2  # samples of one class
        target[samples // 3] = rows  # just outside
        product = (cosine / inverse.unsqueeze(1)).to(dtype)
        return cls(product.to(device), inverse.to(device), target.to(device))

    def cosines(self) -> Tensor:
        return self.product.cpu().double() * self.inverse.cpu().double().unsqueeze(1)

    def is_target(self) -> Tensor:
        return torch.arange(len(self.inverse)).unsqueeze(1) == self.target.cpu()

    def left_out(self, limit: float | None) -> Tensor:
        """Return where the float32 cosine is above the limit: a step function has no tolerance."""
        if limit is None:
            return torch.zeros(self.product.shape, dtype=torch.bool)
        return self.product.cpu() * self.inverse.cpu().unsqueeze(1) > limit


@pytest.mark.slow
@every_form
@dtypes
@pytest.mark.parametrize("rows", [1, 300])
@pytest.mark.parametrize("samples", [5, 131])
@logits
def test_softmax_over_blocks_equals_the_dense_softmax(
    ops: BlockOps, dtype: torch.dtype, rows: int, samples: int, limit: float | None, scale: float
) -> None:
    device = device_of(type(ops))
    log2_scale = scale / math.log(2.0)
    transform = LogitTransform(log2_scale, limit)
    start = transform.initial_max
    running_max = torch.full((samples,), start, device=device)
    sum_exp = torch.zeros(samples, device=device)
    logit_CN = torch.empty(0, samples, dtype=torch.float64)
    exps: list[tuple[Tensor, Tensor]] = []
    for number, size in enumerate([rows, 7, rows]):
        block = Products.of(size, samples, dtype, number, device)
        exp = block.product.clone()
        rescale = ops.softmax_block(
            exp, block.inverse, block.target + 9, 9, transform, running_max, sum_exp
        )
        left_out = block.is_target() | block.left_out(limit)
        logit = (block.cosines() * log2_scale).masked_fill(left_out, -math.inf)
        logit_CN = torch.cat([logit_CN, logit])
        if rescale is not None:
            exps = [(part * rescale.cpu().double(), of) for part, of in exps]
        exps.append((exp.cpu().double(), block.inverse.cpu().double().unsqueeze(1)))

    assert running_max.isfinite().all()
    if not transform.max_is_fixed:
        largest = logit_CN.amax(0).clamp_min(-1e30)
        close(running_max, largest, rtol=3e-7, atol=log2_scale * 1e-7)
    else:
        assert rescale is None
        assert (running_max == start).all()  # in range without a search for the largest
    power = torch.exp2(logit_CN - running_max.cpu().double())
    close(sum_exp, power.sum(0), rtol=tolerance(torch.float32, log2_scale))
    found = torch.cat([exp / inverse for exp, inverse in exps])
    close(found, power, rtol=tolerance(dtype, 2.0 * log2_scale), atol=1e-30)
    if limit == -1.1:
        assert not sum_exp.any()
        assert not found.any()


@every_form
def test_a_nan_product_shows_in_sum_exp_and_exp(ops: BlockOps) -> None:
    device = device_of(type(ops))
    block, samples = Products.of(40, 6, torch.float32, 0, device), 6
    block.product[17, 3], block.target[3] = math.nan, 4
    for log2_scale in (90.0, 100.0):
        exp, transform = block.product.clone(), LogitTransform(log2_scale, 0.5)
        running_max = torch.full((samples,), transform.initial_max, device=device)
        sum_exp = torch.zeros(samples, device=device)
        ops.softmax_block(exp, block.inverse, block.target, 0, transform, running_max, sum_exp)

        assert sum_exp.isnan().tolist() == [False, False, False, True, False, False]
        assert exp[17, 3].isnan()
        assert not exp[:, :3].isnan().any()


@every_form
@pytest.mark.parametrize("log2_scale", [90.0, 100.0])
@dtypes
def test_a_product_of_minus_infinity_has_no_exp(
    ops: BlockOps, dtype: torch.dtype, log2_scale: float
) -> None:
    device = device_of(type(ops))
    block, samples = Products.of(40, 6, dtype, 0, device), 6
    block.product[5:9, 2:] = -math.inf
    transform = LogitTransform(log2_scale)
    running_max = torch.full((samples,), transform.initial_max, device=device)
    sum_exp = torch.zeros(samples, device=device)
    arguments = block.product, block.inverse, block.target, 0, transform
    ops.softmax_block(*arguments, running_max, sum_exp)

    assert not block.product[5:9, 2:].any()
    assert block.product.isfinite().all()
    assert sum_exp.isfinite().all()


@every_form
@pytest.mark.parametrize(("rows", "samples"), [(0, 3), (3, 0)])
def test_an_empty_block_changes_nothing(ops: BlockOps, rows: int, samples: int) -> None:
    device = device_of(type(ops))
    weight = torch.ones(5, 4, device=device)
    velocity = torch.ones_like(weight)
    index = torch.arange(rows, device=device)
    block = block_of(0, rows, index, weight=weight, momentum=velocity)
    factor, inverse = ops.read_rows(block, torch.bfloat16)
    target = torch.zeros(samples, dtype=torch.int64, device=device)
    product = torch.ones(rows, samples, device=device)
    running_max, sum_exp = (torch.full((samples,), value, device=device) for value in (2.0, 1.0))
    for log2_scale in (9.0, 900.0):
        transform = LogitTransform(log2_scale)
        rescale = ops.softmax_block(product, inverse, target, 0, transform, running_max, sum_exp)
        assert rescale is None or torch.equal(rescale, torch.ones_like(running_max))
    gradient, nothing = torch.ones(rows, 4, device=device), weight.new_empty(samples, 4)
    ops.add_targets(block, gradient, target, nothing)
    if rows == 0:
        ops.update_rows_sgd(block, factor, RowSGD(0.5, 1.0), 1.0, None)

    assert factor.shape == (rows, 4)
    assert torch.equal(product, torch.ones_like(product))
    assert torch.equal(sum_exp, torch.ones_like(running_max))
    assert (running_max == 2.0).all()
    assert torch.equal(gradient, torch.ones_like(gradient))
    assert torch.equal(weight, torch.ones_like(weight))
    assert torch.equal(velocity, torch.ones_like(weight))


def test_the_cpu_uses_compiled_loops_and_cuda_the_kernels() -> None:
    assert block_ops(torch.device("cpu")) is CompiledOps
    assert block_ops(torch.device("cuda")) is type(OPS[1])
    assert block_ops(torch.device("meta")) is BlockOps


def test_without_numba_a_cpu_uses_torch_and_warns(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "recognition.head.kernels.cpu", None)
    assert block_ops(torch.device("cpu")) is BlockOps
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.slow
def test_every_kernel_compiles_and_fits_the_registers(tmp_path: Path) -> None:
    """In a separate process: one process either interprets kernels or compiles them."""
    environment = {key: os.environ[key] for key in os.environ if key != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    script = Path(__file__).with_name("compile_kernels.py")
    result = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, check=False
    )

    assert result.returncode == 0, result.stderr
    launched = {"read_rows", "update_rows_sgd", "add_targets", "block_exps", "block_maxima"}
    launched |= {"merge_maxima", "merge_sums", "product_exps", "product_update", "coast_rows"}
    lines = [line.split() for line in result.stdout.splitlines()]
    for capability, shared_memory in (("80", 163 << 10), ("90", 227 << 10)):
        of_gpu = [line for line in lines if line[1] == capability]
        assert {name for name, *_ in of_gpu} == launched
        assert all(int(line[2]) <= shared_memory for line in of_gpu)
    assert [line for line in lines if line[3] != "0"] == []  # nothing spills
    # The fused kernels load their matrices in pieces of 16 bytes, ahead of their use.
    assert [line for line in lines if line[0].startswith("product") and line[4] != "0"] == []
