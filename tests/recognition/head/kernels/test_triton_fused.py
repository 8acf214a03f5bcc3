"""The fused kernels against the definition of what they do, in float64."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from recognition.head.kernels.block import (
    FIXED_MAX,
    Block,
    LogitTransform,
    join_halves,
    split_halves,
)
from recognition.head.kernels.reference import BlockOps, Coefficients
from recognition.head.kernels.workspace import Workspace
from recognition.head.optim.rounding import RowNoise
from recognition.head.optim.row_optimizers import RowSGD
from recognition.head.rows import RowSet
from tests.recognition.head.kernels.kernel_cases import BFLOAT16, DEVICE, TritonOps, close

pytestmark = pytest.mark.gpu

LOG2_SCALE = 64.0 / math.log(2.0)
SGD = RowSGD(momentum=0.9, weight_decay=0.01)


@dataclass
class Case:
    """A table, and a block of it: positions `[start, stop)` of the row set."""

    weight: Tensor  # float32 [L, D]
    momentum: Tensor  # float32 or bfloat16 [L, D]
    unit: Tensor  # float32 [N, D]
    index: Tensor | None  # int64, of the row set
    start: int
    stop: int
    target: Tensor  # int64 [N], positions in the row set, some outside the block
    split: bool

    @classmethod
    def make(
        cls, rows: int, samples: int, size: int, *, picked: bool = False, split: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> "Case":  # fmt: skip
        generator = torch.Generator().manual_seed(rows + samples + size)
        table = 2 * rows + 40
        weight = torch.randn(table, size, generator=generator) * 0.01
        weight[:8] *= 300.0
        index = torch.arange(1, table, 2) if picked else None
        start = 3
        unit = torch.nn.functional.normalize(torch.randn(samples, size, generator=generator))
        unit = unit.bfloat16().float()  # so that the products are exact in float64
        target = torch.randint(0, start + 2 * rows, (samples,), generator=generator)
        target[0] = -1
        momentum = torch.randn(table, size, generator=generator).to(dtype)
        return cls(weight, momentum, unit, index, start, start + rows, target, split)

    def block(self) -> Block:
        """Return the block on the device, with copies of the tables."""
        weight, low = self.weight.clone().to(DEVICE), None
        if self.split:
            weight, low = split_halves(weight)
        tables = {"weight": weight, "momentum": self.momentum.to(DEVICE).clone()}
        rows = RowSet(len(self.weight))
        index = None
        if self.index is None:
            tables = {name: table[self.start : self.stop] for name, table in tables.items()}
            low = None if low is None else low[self.start : self.stop]
        else:
            rows = RowSet(len(self.index), self.index.to(DEVICE))
            index = self.index[self.start : self.stop].to(DEVICE)
        return Block(rows, self.start, self.stop, tables, index, Workspace(), low)

    @property
    def table_rows(self) -> Tensor:
        """Which rows of the table are the block's."""
        if self.index is None:
            return torch.arange(self.start, self.stop)
        return self.index[self.start : self.stop]

    @property
    def multiplied(self) -> Tensor:
        """The block's rows as they are multiplied, float64 [R, D]."""
        rows = self.weight[self.table_rows]
        if self.split:
            return split_halves(rows)[0].double()
        return rows.bfloat16().double()

    def exps(self, limit: float = math.inf) -> tuple[Tensor, Tensor, Tensor]:
        """Return exponentials, over the norms too, and which are targets: each [R, N]."""
        product = self.multiplied @ self.unit.double().T
        norm = self.multiplied if self.split else self.weight[self.table_rows].double()
        inverse = 1.0 / norm.norm(dim=1, keepdim=True)
        cosine = product * inverse
        is_target = torch.arange(self.start, self.stop).unsqueeze(1) == self.target
        power = torch.exp2(cosine * LOG2_SCALE - FIXED_MAX)
        power = power.masked_fill(is_target | (cosine > limit), 0.0)
        return power, power * inverse, is_target

    def coefficients(self) -> Coefficients:
        generator = torch.Generator().manual_seed(1)
        samples = len(self.unit)
        weight = torch.rand(samples, generator=generator) * 1e-3
        own = -torch.rand(samples, generator=generator)
        target = self.target.to(DEVICE)
        return Coefficients(target, weight.to(DEVICE), own.to(DEVICE), torch.zeros_like(target))

    def updated(self, sgd: RowSGD, lr: float) -> tuple[Tensor, Tensor]:
        """Return weight and velocity of the block's rows after the update, float64 [R, D]."""
        given = self.coefficients()
        _, exp, is_target = self.exps()
        weight = self.weight[self.table_rows].double()
        norm = weight.norm(dim=1, keepdim=True)
        coefficient = exp * given.weight.cpu() + is_target * (given.own.cpu() / norm)
        gradient = coefficient @ self.unit.double()
        along = (gradient * weight).sum(1, keepdim=True) / norm.square()
        gradient += (sgd.weight_decay - along) * weight
        velocity = sgd.momentum * self.momentum[self.table_rows].double() + gradient
        step = gradient + sgd.momentum * velocity if sgd.nesterov else velocity
        return weight - lr * step, velocity


every_table = pytest.mark.parametrize(
    ("picked", "split"), [(False, False), (True, False), (False, True), (True, True)]
)
transform = LogitTransform(LOG2_SCALE)
SHAPES = [(1, 3, 8), (130, 70, 72), (129, 129, 64)]  # of rows, samples and numbers: not of tiles


@pytest.fixture
def ops() -> Iterator[BlockOps]:
    """Triton's interpreter serves one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield TritonOps()
    torch.set_num_threads(before)


@pytest.mark.slow
@every_table
@pytest.mark.parametrize(
    ("shape", "limit"), [*((shape, None) for shape in SHAPES), (SHAPES[1], 0.2)]
)
def test_exponentials_equal_their_definition(
    ops: BlockOps, picked: bool, split: bool, shape: tuple[int, int, int], limit: float | None
) -> None:
    case = Case.make(*shape, picked=picked, split=split)
    rows, samples, _ = shape
    power, exp, _ = case.exps(math.inf if limit is None else limit)
    out = torch.full((rows, samples), math.nan, dtype=torch.bfloat16, device=DEVICE)
    sums = torch.ones(ops.sum_parts(rows), samples, device=DEVICE)
    factor = ops.product_exps(
        case.block(), case.unit.bfloat16().to(DEVICE), case.target.to(DEVICE),
        LogitTransform(LOG2_SCALE, limit), out, sums,
    )  # fmt: skip

    close(out, exp, rtol=BFLOAT16)
    close(sums.sum(0) - len(sums), power.sum(0), rtol=1e-4, atol=1e-5)
    assert torch.equal(factor.cpu().double(), case.multiplied)


@pytest.mark.skipif(DEVICE.type != "cuda", reason="many programs at a time, as on a GPU alone")
@every_table
@pytest.mark.parametrize("shape", [(6000, 96, 128), (12_000, 1024, 512)])
def test_many_programs_find_the_same_bits_each_time(
    ops: BlockOps, picked: bool, split: bool, shape: tuple[int, int, int]
) -> None:
    """Some wrong numbers in a few tiles, others each time, have come from a compiler's mistake."""
    case = Case.make(*shape, picked=picked, split=split)
    rows, samples, _ = shape
    _, exp, _ = case.exps()
    found = []
    for _ in range(8):
        out = torch.full((rows, samples), math.nan, dtype=torch.bfloat16, device=DEVICE)
        sums = torch.zeros(ops.sum_parts(rows), samples, device=DEVICE)
        ops.product_exps(
            case.block(), case.unit.bfloat16().to(DEVICE), case.target.to(DEVICE), transform, out,
            sums,
        )  # fmt: skip
        found.append((out, sums))

    close(found[0][0], exp, rtol=BFLOAT16)
    for out, sums in found[1:]:
        assert torch.equal(out.view(torch.int16), found[0][0].view(torch.int16))
        assert torch.equal(sums, found[0][1])


@pytest.mark.slow
@every_table
@pytest.mark.parametrize(
    ("shape", "sgd"), [*((shape, SGD) for shape in SHAPES), (SHAPES[1], RowSGD(nesterov=True))]
)
def test_update_equals_its_definition(
    ops: BlockOps, picked: bool, split: bool, shape: tuple[int, int, int], sgd: RowSGD
) -> None:
    case = Case.make(*shape, picked=picked, split=split)
    weight, velocity = case.updated(sgd, lr=0.5)
    block = case.block()
    before = block.read("weight").clone()
    others = {name: table.clone() for name, table in block.tensors.items()}
    ops.product_update(
        block, case.unit.bfloat16().to(DEVICE), case.coefficients(), transform, sgd, 0.5, None
    )
    found = Block(
        block.rows, block.start, block.stop, block.tensors, block.index, Workspace(), block.low
    )

    change = (weight - case.weight[case.table_rows].double()).norm()
    assert (found.read("weight").cpu().double() - weight).norm() < BFLOAT16 * change
    kept = case.momentum[case.table_rows].double() * sgd.momentum
    error = (found.read("momentum").cpu().double() - velocity).norm()
    assert error < BFLOAT16 * (velocity - kept).norm()
    assert not torch.equal(found.read("weight"), before)
    if picked:  # all other rows are as they were
        rest = torch.ones(len(case.weight), dtype=torch.bool)
        rest[case.table_rows] = False
        for name, table in block.tensors.items():
            assert torch.equal(table[rest.to(DEVICE)], others[name][rest.to(DEVICE)])


@pytest.mark.slow
@every_table
def test_a_skipped_update_changes_no_bit_though_all_numbers_are_nan(
    ops: BlockOps, picked: bool, split: bool
) -> None:
    case = Case.make(33, 20, 40, picked=picked, split=split)
    given = case.coefficients()
    nan = replace(given, weight=given.weight * math.nan, own=given.own * math.nan)
    unit = case.unit.bfloat16().to(DEVICE)
    for skip in (True, False):
        block = case.block()
        before = {name: table.clone() for name, table in block.tensors.items()}
        flag = torch.tensor(skip, device=DEVICE)
        ops.product_update(block, unit, nan, transform, SGD, 0.5, None, flag)
        same = [torch.equal(table, before[name]) for name, table in block.tensors.items()]

        assert same == [skip, skip]
        block = case.block()
        gradient = torch.full((33, 40), math.nan, device=DEVICE)
        ops.update_rows_sgd(block, gradient, SGD, 0.5, None, flag)
        same = [torch.equal(table, before[name]) for name, table in block.tensors.items()]

        assert same == [skip, skip]


@pytest.mark.slow
@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("picked", [False, True])
def test_velocities_are_rounded_with_the_noise_of_their_class(
    ops: BlockOps, picked: bool, split: bool
) -> None:
    sgd = RowSGD(weight_decay=0.0, momentum_dtype=torch.bfloat16)
    case = Case.make(33, 20, 40, picked=picked, split=split, dtype=torch.bfloat16)
    rows = len(case.table_rows) if case.index is None else case.table_rows.to(DEVICE)
    first = 100 + case.start if case.index is None else 100
    found = {}
    for noise in (RowNoise(1, 2, rows, first), RowNoise(1, 3, rows, first)):
        block = case.block()
        unit, given = case.unit.bfloat16().to(DEVICE), case.coefficients()
        given = replace(given, weight=given.weight * 0.0, own=given.own * 0.0)
        ops.product_update(block, unit, given, transform, sgd, 0.5, noise)
        found[noise.step] = Block(
            block.rows, block.start, block.stop, block.tensors, block.index, Workspace(), block.low
        ).read("momentum")
    wide = case.momentum[case.table_rows].float() * 0.9  # there is no gradient
    bits = RowNoise(1, 2, case.table_rows, 100).bits(40, out=torch.empty(33, 40, dtype=torch.int32))
    expected = ((wide.view(torch.int32) + bits) >> 16).to(torch.int16).view(torch.bfloat16)

    assert torch.equal(found[2].cpu(), expected)
    assert not torch.equal(found[3].cpu(), expected)


def test_halves_lose_no_bit_and_the_upper_one_is_the_nearest_bfloat16() -> None:
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(1 << 31), 1 << 31, (100_000,), generator=generator).to(torch.int32)
    special = torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan, 3.4e38, 1e-45, 1.0])
    weight = torch.cat([bits.view(torch.float32), special])
    high, low = split_halves(weight)
    assert torch.equal(join_halves(high, low).view(torch.int32), weight.view(torch.int32))
    normal = weight[weight.isfinite()]
    high = split_halves(normal)[0].double()
    nearest = normal.bfloat16().double()
    finite = high.isfinite() & nearest.isfinite()
    error = (high - normal.double()).abs()[finite]
    assert (error <= (nearest - normal.double()).abs()[finite]).all()
