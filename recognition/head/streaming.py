"""The softmax over any number of class centres, in blocks of them: the first pass.

No matrix of N x C logits exists at any time. The first pass gives two numbers a sample, the peak
and the mass of its negatives' exponentials, and on the way the sum of the negatives' unit centres
weighted by them, rescaled whenever the peak rises (the online softmax of Milakov & Gimelshein,
arXiv 1805.02867, and Dao et al., arXiv 2205.14135). That sum is the embedding gradient but for a
factor a sample. The second pass (`centre_gradients`) gives each block of centres its gradient, to
be used up before the next block: no dense gradient of the table exists either. Four matrix
products in all, three when the blocks' products fit `keep_bytes` and need not be made twice.

Exponentials are to base 2: `exp(scale·c) = 2^(scale·log2(e)·c)`. On x86 torch's exp2 takes a
quarter of the time of its exp, and a thirtieth where results underflow.

Shapes: S samples whose negatives count, A active classes of this rank, R classes of one block, K
centres a class, C = R·K centres of one block, d embedding size.
"""

from dataclasses import dataclass

import torch

from recognition.head.blocks import Rule, softmax_block
from recognition.head.kernels import BlockOps
from recognition.head.kernels.plain import inverse_norm
from recognition.head.loss import Curriculum
from recognition.head.rows import RowSet
from recognition.head.settings import StreamSettings
from recognition.head.table import Block, Table

_NO_PEAK = -1e30  # below any logit, and finite: its difference to itself is 0, not NaN


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
class NegativeStatistics:
    """What the first pass knows of each sample's negatives among some rows.

    Attributes:
        peak: float32 [S], the largest logit to base 2; -1e30 where there is no negative.
        mass: float32 [S], sum over the negatives of `2^(logit − peak)`.
        pull: float32 [S, d], the same sum of unit centres; None if no gradient was asked for.
        product: the kept products of centres and samples, [A·K, S] in `matmul_dtype`, or None.
    """

    peak: torch.Tensor
    mass: torch.Tensor
    pull: torch.Tensor | None
    product: torch.Tensor | None


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
    ops: BlockOps,
    *,
    width: int,
    with_pull: bool,
    keep: bool,
) -> NegativeStatistics:
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
        ops: the operations for this device.
        width: samples that blocks are planned for.
        with_pull: whether to sum the centres, which costs a second product.
        keep: whether to keep the products if they fit the budget.
    """
    count, size = samples.unit.shape
    centres = table.weight.shape[1] // size
    rule = Rule(how.log2_scale, how.inter_class_filter, samples.curriculum, centres)
    peak_S = samples.unit.new_full((count,), _NO_PEAK)
    mass_S = samples.unit.new_zeros(count)
    pull_Sd = torch.zeros_like(samples.unit) if with_pull else None
    factor_dS = samples.unit.to(how.matmul_dtype).T
    position_S, device = rows.positions(samples.own), samples.unit.device
    keep = keep and how.keeps(rows.count * centres, count)
    kept = factor_dS.new_empty(rows.count * centres, count) if keep else None
    for block in table.walk(rows, how.block_rows(width, size, centres)):
        factor_Cd, inverse_C = factors(block, size, centres, how.matmul_dtype, ops)
        if kept is None:
            out = table.space.take("product", (len(factor_Cd), count), factor_Cd.dtype, device)
        else:
            out = kept[block.start * centres : block.stop * centres]
        product_CS = torch.mm(factor_Cd, factor_dS, out=out)
        share_CS, shrink_S = softmax_block(
            ops, product_CS, inverse_C, position_S - block.start, rule, peak_S, mass_S,
            in_place=kept is None,
        )  # fmt: skip
        if pull_Sd is not None:
            pull_Sd.mul_(shrink_S.unsqueeze(1))
            if share_CS.dtype == pull_Sd.dtype:
                pull_Sd.addmm_(share_CS.T, factor_Cd)
            else:
                pull_Sd.add_(share_CS.T @ factor_Cd)
    return NegativeStatistics(peak_S, mass_S, pull_Sd, kept)


def combine_statistics(peak_WS: torch.Tensor, mass_WS: torch.Tensor) -> torch.Tensor:
    """Equals `log2(sum(mass_WS * 2**peak_WS, dim=0))`: float32 [S].

    The statistics are those of W shards; −inf where no shard has a negative.
    """
    peak_S = peak_WS.amax(0)
    return peak_S + (mass_WS * torch.exp2(peak_WS - peak_S)).sum(0).log2()


def factors(
    block: Block, size: int, centres: int, dtype: torch.dtype, ops: BlockOps
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a block's centres in `dtype`, [C, d], and their inverse norms, float32 [C]."""
    if centres == 1 and not block.has_read("weight"):
        weight = block.tensors["weight"]
        return ops.read_rows(weight, block.index, block.first, block.last, dtype)
    weight_Cd = block.read("weight").view(-1, size)
    return ops.read_rows(weight_Cd, None, 0, len(weight_Cd), dtype)
