"""The softmax over any number of class centres, in blocks of them: the first pass.

No matrix of N x C logits exists at any time. The first pass gives two numbers a sample, the peak
and the mass of its negatives' exponentials, and on the way the sum of the negatives' unit centres
weighted by them, rescaled whenever the peak rises (the online softmax of Milakov & Gimelshein,
arXiv 1805.02867, and Dao et al., arXiv 2205.14135). That sum is the embedding gradient but for a
factor a sample. Its weights, the centres' shares, are the centres' gradient but for another factor
a sample: the second pass (`centre_gradients`) multiplies them with the embeddings, block by block,
each block's gradient to be used up before the next: no dense gradient of the table exists either.
Four matrix products in all, three when the shares fit `keep_bytes` and need not be made twice.

Exponentials are to base 2: `exp(scale·c) = 2^(scale·log2(e)·c)`. On x86 torch's exp2 takes a
quarter of the time of its exp, and a thirtieth where results underflow.

Shapes: S samples whose negatives count, A active classes of this rank, R classes of one block, K
centres a class, C = R·K centres of one block, d embedding size.
"""

from dataclasses import dataclass, field

import torch

from recognition.head.kernels.block import Block, LogitTransform
from recognition.head.kernels.reference import inverse_norm
from recognition.head.losses.base import Curriculum
from recognition.head.online_softmax.settings import StreamSettings
from recognition.head.online_softmax.threads import Lane, Lanes
from recognition.head.placement.table import Table
from recognition.head.rows import RowRange, RowSet


@dataclass(frozen=True)
class Samples:
    """Samples as the passes see them.

    Attributes:
        unit: float32 [S, d], normalised embeddings.
        own: int64 [S], row of the own class in the table, −1 if this rank does not hold it.
        curriculum: which negatives count for more; None if none does.
    """

    unit: torch.Tensor
    own: torch.Tensor
    curriculum: Curriculum | None = None


@dataclass(frozen=True)
class OwnCentres:
    """Each sample's own class centre, on the rank that holds it.

    Attributes:
        unit: float32 [N, d], normalised; zeros where another rank holds it.
        place: int64 [N], which of the class's K centres it is, the nearest.
        cosine: float32 [N], with the sample; 0 where another rank holds the centre.
    """

    unit: torch.Tensor
    place: torch.Tensor
    cosine: torch.Tensor


@dataclass(frozen=True)
class Kept:
    """What the first pass leaves to the second.

    Attributes:
        share: what each centre, not normalised, counts for in each sample's sum of negatives,
            [A·K, S] in `matmul_dtype`.
        peak: the peaks at which a block's shares were made, float32 [S], by the block's start;
            nothing where all are `FIXED_PEAK`.
    """

    share: torch.Tensor
    peak: dict[int, torch.Tensor] = field(default_factory=dict)

    def of_block(self, block: Block, centres: int) -> torch.Tensor:
        """Return the shares of a block of classes with so many centres each: a view."""
        return self.share[block.start * centres : block.stop * centres]


@dataclass(frozen=True)
class NegativeStatistics:
    """What the first pass knows of each sample's negatives among some rows.

    Attributes:
        peak: float32 [S], the largest logit to base 2, or a number that does as well.
        mass: float32 [S], sum over the negatives of `2^(logit − peak)`.
        pull: float32 [S, d], the same sum of unit centres; None if no gradient was asked for.
    """

    peak: torch.Tensor
    mass: torch.Tensor
    pull: torch.Tensor | None

    @classmethod
    def none(
        cls, unit_Sd: torch.Tensor, start_peak: float, *, with_pull: bool
    ) -> "NegativeStatistics":
        """Return those of no rows at all."""
        return cls(
            peak=unit_Sd.new_full((len(unit_Sd),), start_peak),
            mass=unit_Sd.new_zeros(len(unit_Sd)),
            pull=torch.zeros_like(unit_Sd) if with_pull else None,
        )

    def take_in(self, other: "NegativeStatistics") -> None:
        """Add those of other rows, in place."""
        peak_S = torch.maximum(self.peak, other.peak)
        shrink_S, others_S = torch.exp2(self.peak - peak_S), torch.exp2(other.peak - peak_S)
        self.peak.copy_(peak_S)
        self.mass.mul_(shrink_S).addcmul_(other.mass, others_S)
        if self.pull is not None and other.pull is not None:
            self.pull.mul_(shrink_S.unsqueeze(1)).addcmul_(other.pull, others_S.unsqueeze(1))


def own_centres(table: Table, unit_Nd: torch.Tensor, own_N: torch.Tensor) -> OwnCentres:
    """Find each sample's own centre: the nearest one of its class.

    For K = 1 its unit vector equals `normalize(weight)[own_N]`, with zeros where `own_N` is −1.
    """
    samples, size = unit_Nd.shape
    if table.weight.shape[0] == 0:
        nothing_N = unit_Nd.new_zeros(samples)
        return OwnCentres(torch.zeros_like(unit_Nd), torch.zeros_like(own_N), nothing_N)
    centres = table.weight.shape[1] // size
    weight_Jd = table.rows_of(own_N.clamp_min(0)).view(-1, size)
    unit_Jd = weight_Jd * inverse_norm(weight_Jd).unsqueeze(1)
    unit_NKd = unit_Jd.view(samples, centres, size)
    cosine_NK = (unit_NKd * unit_Nd.unsqueeze(1)).sum(2)
    cosine_N, place_N = cosine_NK.max(1)
    own_Nd = unit_NKd[torch.arange(samples, device=own_N.device), place_N]
    held_N = own_N >= 0
    return OwnCentres(own_Nd * held_N.unsqueeze(1), place_N, cosine_N * held_N)


def negative_statistics(
    samples: Samples,
    table: Table,
    rows: RowSet,
    how: StreamSettings,
    lanes: Lanes,
    *,
    width: int,
    with_pull: bool,
    keep: bool,
) -> tuple[NegativeStatistics, Kept | None]:
    """First pass: each sample's softmax over its negatives among `rows`.

    Equals, with `c = unit @ normalize(weight[rows]).T` and `−inf` in `c` for the own class and
    for what the filter leaves out,

        logsumexp(scale * c, dim=1) == (peak + log2(mass)) * log(2)
        softmax(scale * c, dim=1) @ normalize(weight[rows]) == pull / mass[:, None]

    With K centres a class c is the largest of them, and with a curriculum hard negatives' c is
    changed, and their pull weighted by the derivative.

    Args:
        samples: normalised embeddings and their own classes.
        table: this rank's centres.
        rows: the rows that take part.
        how: scale, filter, budgets, product dtype.
        lanes: who works through the rows.
        width: samples that blocks are planned for.
        with_pull: whether to sum the centres, which costs a second product.
        keep: whether to keep the shares if they fit the budget.

    Returns:
        The statistics, and what was kept.
    """
    count, size = samples.unit.shape
    centres = table.weight.shape[1] // size
    factor_Sd = samples.unit.to(how.matmul_dtype)
    keep = keep and how.keeps(rows.count * centres, count)
    kept = None
    if keep:
        shape = rows.count * centres, count
        kept = Kept(lanes.space.acquire(shape, how.matmul_dtype, factor_Sd.device))
    rule = LogitTransform(how.log2_scale, how.inter_class_filter, samples.curriculum, centres)
    run = _FirstPass(
        samples=samples,
        factor=factor_Sd,
        position=rows.positions(samples.own),
        table=table,
        how=how,
        rule=rule,
        with_pull=with_pull,
        kept=kept,
    )
    total = NegativeStatistics.none(samples.unit, rule.initial_max, with_pull=with_pull)
    for part in lanes.map(run.part, rows, how.block_rows(width, size, centres)):
        total.take_in(part)
    return total, kept


@dataclass(frozen=True)
class _FirstPass:
    """The first pass over any part of the rows; see `negative_statistics`."""

    samples: Samples
    factor: torch.Tensor
    position: torch.Tensor
    table: Table
    how: StreamSettings
    rule: LogitTransform
    with_pull: bool
    kept: Kept | None

    def part(self, lane: Lane, part: RowRange) -> NegativeStatistics:
        """Return the statistics over a part of the rows, and keep what is to be kept of it."""
        rule, factor_dS = self.rule, self.factor.T
        size, count = factor_dS.shape
        found = NegativeStatistics.none(
            self.samples.unit, rule.initial_max, with_pull=self.with_pull
        )
        for block in self.table.walk(part, lane.space):
            dtype = self.how.matmul_dtype
            factor_Cd, inverse_C = lane.ops.read_rows(block.by_centre(size), dtype)
            if self.kept is None:
                share_CS = lane.space.take(
                    "share", (len(factor_Cd), count), dtype, factor_dS.device
                )
            else:
                share_CS = self.kept.of_block(block, rule.centres)
            torch.mm(factor_Cd, factor_dS, out=share_CS)
            position_S = self.position - block.start
            shrink_S = lane.ops.softmax_block(
                share_CS, inverse_C, position_S, rule, found.peak, found.mass
            )
            if shrink_S is not None and self.kept is not None:
                self.kept.peak[block.start] = found.peak.clone()
            if found.pull is None:
                continue
            if shrink_S is not None:
                found.pull.mul_(shrink_S.unsqueeze(1))
            if dtype == found.pull.dtype:
                found.pull.addmm_(share_CS.T, factor_Cd)
            else:
                found.pull.add_(share_CS.T @ factor_Cd)
        return found


def combine_statistics(peak_WS: torch.Tensor, mass_WS: torch.Tensor) -> torch.Tensor:
    """Equals `log2(sum(mass_WS * 2**peak_WS, dim=0))`: float32 [S].

    The statistics are those of W shards; −inf where no shard has a negative.
    """
    peak_S = peak_WS.amax(0)
    return peak_S + (mass_WS * torch.exp2(peak_WS - peak_S)).sum(0).log2()
