"""The softmax over any number of class centres, in blocks of them: the first pass.

No N x C matrix of logits exists at any time. The first pass gives two numbers per sample, the
running maximum and the sum of exponentials of its negatives' logits, and on the way the sum of the
negatives' unit centres weighted by them, rescaled whenever the maximum rises (the online softmax
of Milakov & Gimelshein, arXiv 1805.02867, and Dao et al., arXiv 2205.14135). That sum is the
embedding's gradient up to a factor per sample. The exponentials are also the weights of the
samples in the centres' gradient, up to another factor per sample: the second pass (`backward`)
multiplies them with the embeddings, block by block, and each block's gradient is used before the
next is made, so no dense gradient of the table exists either. Four matrix products in all, three
when the exponentials fit `keep_bytes` and need not be made twice.

Exponentials are to base 2: `exp(scale·c) = 2^(scale·log2(e)·c)`. On x86 torch's exp2 takes a
quarter of the time of its exp, and a thirtieth where results underflow.

Shapes: S samples whose negatives count, A active classes of this rank, R classes of a block, K
centres per class, C = R·K centres of a block, d embedding size.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from recognition.head.kernels.block import Block, LogitTransform
from recognition.head.kernels.reference import BlockOps, inverse_norm
from recognition.head.losses.base import Curriculum
from recognition.head.online_softmax.stream import BlockStream
from recognition.head.placement.table import Table
from recognition.head.rows import RowSet


@dataclass(frozen=True)
class Samples:
    """The samples whose negatives count, as the passes see them."""

    unit: Tensor  # float32 [S, d], normalised embeddings
    target_row: Tensor  # int64 [S], of the target class in the table; −1 on ranks without it
    curriculum: Curriculum | None = None  # which negatives count for more

    def pick(self, sample_S: Tensor) -> "Samples":
        """Return some of the samples, int64 [S]."""
        curriculum = None if self.curriculum is None else self.curriculum.pick(sample_S)
        return Samples(self.unit[sample_S], self.target_row[sample_S], curriculum)


@dataclass(frozen=True)
class TargetCentres:
    """Each sample's target centre, on the rank that holds it."""

    unit: Tensor  # float32 [N, d], normalised; zeros on other ranks
    centre: Tensor  # int64 [N], which of the class's K centres it is: the nearest
    cosine: Tensor  # float32 [N], with the sample; 0 on other ranks


@dataclass(frozen=True)
class KeptExps:
    """What the first pass leaves to the second.

    The maxima are those that a block's exponentials belong to, float32 [S], by the block's start;
    none where the maximum is fixed.
    """

    exp: Tensor  # [A·K, S] in `matmul_dtype`, each over its centre's norm
    running_max: dict[int, Tensor] = field(default_factory=dict)

    def of_block(self, block: Block, centres: int) -> Tensor:
        """Return a block's exponentials, with so many centres per class: a view, [C, S]."""
        return self.exp[block.start * centres : block.stop * centres]


@dataclass(frozen=True)
class NegativeStatistics:
    """The statistics of each sample's negatives among some rows, from the first pass.

    `grad_unit` is the gradient by the unit embedding, up to a factor per sample.
    """

    running_max: Tensor  # float32 [S], the largest logit to base 2, or the fixed maximum
    sum_exp: Tensor  # float32 [S], sum over the negatives of `2^(logit − running_max)`
    grad_unit: Tensor | None  # float32 [S, d], the same sum of unit centres, if asked for

    @classmethod
    def empty(cls, unit_Sd: Tensor, initial_max: float, *, with_grad: bool) -> "NegativeStatistics":
        """Return those of no rows at all."""
        return cls(
            running_max=unit_Sd.new_full((len(unit_Sd),), initial_max),
            sum_exp=unit_Sd.new_zeros(len(unit_Sd)),
            grad_unit=torch.zeros_like(unit_Sd) if with_grad else None,
        )

    def merge(self, other: "NegativeStatistics") -> None:
        """Add those of other rows, in place."""
        max_S = torch.maximum(self.running_max, other.running_max)
        rescale_S = torch.exp2(self.running_max - max_S)
        others_S = torch.exp2(other.running_max - max_S)
        self.running_max.copy_(max_S)
        self.sum_exp.mul_(rescale_S).addcmul_(other.sum_exp, others_S)
        if self.grad_unit is not None and other.grad_unit is not None:
            self.grad_unit.mul_(rescale_S.unsqueeze(1))
            self.grad_unit.addcmul_(other.grad_unit, others_S.unsqueeze(1))


@dataclass(frozen=True)
class BlockExps:
    """Makes the exponentials of a block's centres with the samples."""

    factor: Tensor  # [S, d], normalised embeddings in `matmul_dtype`
    target_position: Tensor  # int64 [S], of the target class in the row set; −1 if not in it
    transform: LogitTransform

    def space(self, ops: BlockOps, block: Block) -> Tensor:
        """Return memory for a block's products: [C, S] in `matmul_dtype`."""
        shape = len(block) * self.transform.centres, len(self.factor)
        return ops.space.take("exp", shape, self.factor.dtype, self.factor.device)

    def products(self, ops: BlockOps, block: Block, out_CS: Tensor) -> tuple[Tensor, Tensor]:
        """Multiply a block's centres with the samples; return what `BlockOps.read_rows` does."""
        size, dtype = self.factor.shape[1], self.factor.dtype
        centre_Cd, inverse_C = ops.read_rows(block.by_centre(size), dtype)
        torch.mm(centre_Cd, self.factor.T, out=out_CS)
        return centre_Cd, inverse_C

    def make(
        self,
        ops: BlockOps,
        block: Block,
        running_max_S: Tensor,
        sum_GS: Tensor | None,
        *,
        out_CS: Tensor | None = None,
        absent_RS: Tensor | None = None,
        gain_RS: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return exponentials, [C, S], centres, [C, d], and the factor of `softmax_block`.

        Maxima and sums change in place, as there; `sum_GS`, [G, S] in
        G = `ops.sum_parts` parts, is None for a second pass. The exponentials are written to
        `out_CS`, by default in the workspace; pairs of class and sample in `absent_RS`, bool, are
        left out. The exponentials, not their sums, are multiplied by `gain_RS`, of a class or of
        pairs.
        """
        samples, dtype = len(self.factor), self.factor.dtype
        if out_CS is None:
            out_CS = self.space(ops, block)
        out_RKS = out_CS.view(len(block), self.transform.centres, samples)
        rescale_S = None
        if absent_RS is None and ops.fuses(self.transform, dtype):
            batch = self.factor, self.target_position
            centre_Cd = ops.product_exps(block, *batch, self.transform, out_CS, sum_GS)
        else:
            centre_Cd, inverse_C = self.products(ops, block, out_CS)
            if absent_RS is not None:
                out_RKS.masked_fill_(absent_RS.unsqueeze(1), -torch.inf)
            rescale_S = ops.softmax_block(
                out_CS, inverse_C, self.target_position, block.start, self.transform,
                running_max_S, None if sum_GS is None else sum_GS[0],
            )  # fmt: skip
        if gain_RS is not None:
            out_RKS.mul_(gain_RS.unsqueeze(1))
        return out_CS, centre_Cd, rescale_S


def target_centres(table: Table, unit_Nd: Tensor, target_row_N: Tensor) -> TargetCentres:
    """Find each sample's target centre: the nearest one of its class.

    For K = 1 its unit vector equals `normalize(weight)[target_row_N]`, zeros for row −1.
    """
    samples, size = unit_Nd.shape
    if table.weight.shape[0] == 0:
        zero_N = unit_Nd.new_zeros(samples)
        return TargetCentres(torch.zeros_like(unit_Nd), torch.zeros_like(target_row_N), zero_N)
    centres = table.weight.shape[1] // size
    weight_Jd = table.rows_of(target_row_N.clamp_min(0)).view(-1, size)  # J = N·K
    unit_Jd = weight_Jd * inverse_norm(weight_Jd).unsqueeze(1)
    unit_NKd = unit_Jd.view(samples, centres, size)
    cosine_NK = (unit_NKd * unit_Nd.unsqueeze(1)).sum(2)
    cosine_N, centre_N = cosine_NK.max(1)
    nearest_Nd = unit_NKd[torch.arange(samples, device=target_row_N.device), centre_N]
    held_N = target_row_N >= 0
    return TargetCentres(nearest_Nd * held_N.unsqueeze(1), centre_N, cosine_N * held_N)


def negative_statistics(
    stream: BlockStream,
    samples: Samples,
    rows: RowSet,
    *,
    block_samples: int,
    with_grad: bool,
    keep: bool,
    gain: Tensor | None = None,
) -> tuple[NegativeStatistics, KeptExps | None]:
    """First pass: each sample's softmax over its negatives among `rows`.

    Equals, with `c = unit @ normalize(weight[rows]).T`, and `−inf` in `c` for the target class and
    for what the filter leaves out,

        logsumexp(scale * c, dim=1) == (running_max + log2(sum_exp)) * log(2)
        softmax(scale * c, dim=1) @ normalize(weight[rows]) == grad_unit / sum_exp[:, None]

    With K centres per class c is the largest of them. With a curriculum hard negatives' c is
    changed, and the derivative is a factor of their weights.

    Blocks are planned for `block_samples` samples. `with_grad` sums the centres, which costs a
    second product; `keep` keeps the exponentials if they fit the budget, else None is returned.
    Both take each row's exponentials `gain` times, float32 [A], which the sums do not, and which
    says that the rows are few.
    """
    transform, kept = stream.transform(samples.curriculum), None
    unit_Sd, dtype = samples.unit, stream.settings.matmul_dtype
    shape = rows.count * stream.centres, len(unit_Sd)
    if keep and stream.settings.keeps(*shape, few=gain is not None):
        kept = KeptExps(stream.threads.ops.space.acquire(shape, dtype, unit_Sd.device))
    exps = BlockExps(unit_Sd.to(dtype), rows.positions(samples.target_row), transform)

    block_rows = min(stream.block_rows(block_samples), max(rows.count, 1))

    def part(ops: BlockOps, blocks: Iterator[Block]) -> NegativeStatistics:
        found = NegativeStatistics.empty(unit_Sd, transform.initial_max, with_grad=with_grad)
        sum_GS = unit_Sd.new_zeros(ops.sum_parts(block_rows), len(unit_Sd))
        for block in blocks:
            of_block = None if gain is None else gain[block.start : block.stop].unsqueeze(1)
            _add_block(found, sum_GS, exps, ops, block, kept, of_block)
        torch.sum(sum_GS, 0, out=found.sum_exp)
        return found

    total = NegativeStatistics.empty(unit_Sd, transform.initial_max, with_grad=with_grad)
    for found in stream.map(part, rows, block_samples):
        total.merge(found)
    return total, kept


def _add_block(
    found: NegativeStatistics, sum_GS: Tensor, exps: BlockExps, ops: BlockOps, block: Block,
    kept: KeptExps | None, gain_R1: Tensor | None,
) -> None:  # fmt: skip
    """Add a block's negatives to the statistics, and keep its exponentials if asked to."""
    out_CS = None if kept is None else kept.of_block(block, exps.transform.centres)
    exp_CS, centre_Cd, rescale_S = exps.make(
        ops, block, found.running_max, sum_GS, out_CS=out_CS, gain_RS=gain_R1
    )
    if rescale_S is not None and kept is not None:
        kept.running_max[block.start] = found.running_max.clone()
    if found.grad_unit is None:
        return
    if rescale_S is not None:
        found.grad_unit.mul_(rescale_S.unsqueeze(1))
    ops.add_product(found.grad_unit, exp_CS.T, centre_Cd)


def combine_statistics(max_WS: Tensor, sum_exp_WS: Tensor) -> Tensor:
    """Equals `log2(sum(sum_exp_WS * 2**max_WS, dim=0))` over W shards: float32 [S].

    −inf where no shard has a negative.
    """
    max_S = max_WS.amax(0)
    return max_S + (sum_exp_WS * torch.exp2(max_WS - max_S)).sum(0).log2()
