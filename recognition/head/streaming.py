"""The softmax over any number of class centres, in two passes over blocks of them.

No matrix of N x C logits exists at any time. The first pass gives two numbers a sample, the peak
and the mass of its negatives' exponentials, and on the way the sum of the negatives' unit centres
weighted by them, rescaled whenever the peak rises (the online softmax of Milakov & Gimelshein,
arXiv 1805.02867, and Dao et al., arXiv 2205.14135). That sum is the embedding gradient but for a
factor a sample. The second pass gives each block of centres its gradient, to be used up before
the next block: no dense gradient of the table exists either. Four matrix products in all, three
when the blocks' products fit `keep_bytes` and need not be made twice.

Exponentials are to base 2: `exp(scale·c) = 2^(scale·log2(e)·c)`. On x86 torch's exp2 takes a
quarter of the time of its exp, and a thirtieth where results underflow.

Shapes: N samples, A active rows of this rank, R rows of one block, L rows of the table, d
embedding size, K micro-batches.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from recognition.head.rows import RowSet
from recognition.head.settings import StreamSettings

EPSILON = 1e-12  # smallest norm that is divided by, as in torch.nn.functional.normalize

_NO_PEAK = -1e30  # below any logit, and finite: its difference to itself is 0, not NaN


@dataclass(frozen=True)
class NegativeStatistics:
    """What the first pass knows of each sample's negatives among some rows.

    Attributes:
        peak: float32 [N], the largest logit to base 2; -1e30 where there is no negative.
        mass: float32 [N], sum over the negatives of `2^(logit − peak)`.
        pull: float32 [N, d], the same sum of unit centres; None if no gradient was asked for.
        product: the kept products of centres and samples, [A, N] in `matmul_dtype`, or None.
    """

    peak: torch.Tensor
    mass: torch.Tensor
    pull: torch.Tensor | None
    product: torch.Tensor | None


@dataclass(frozen=True)
class CentreLoss:
    """What a backward pass leaves behind for the centres: O(N·d) numbers, whatever C is.

    Attributes:
        rows: the active rows.
        unit: float32 [N, d], the normalised embeddings of the global batch.
        own: int64 [N], row of each sample's own class in this rank's table, −1 if elsewhere.
        log2_total: float32 [N], log2 of the sum of the exponentials of all ranks' negatives; any
            finite number where there is none.
        negative: float32 [N], derivative of the loss by the negatives' log-sum-exp, times scale.
        positive: float32 [N], derivative of the loss by the cosine with the own centre.
        product: as in `NegativeStatistics`.
    """

    rows: RowSet
    unit: torch.Tensor
    own: torch.Tensor
    log2_total: torch.Tensor
    negative: torch.Tensor
    positive: torch.Tensor
    product: torch.Tensor | None


def inverse_norm(row_Rd: torch.Tensor) -> torch.Tensor:
    """Equals `1 / row_Rd.norm(dim=1).clamp_min(1e-12)`: float32 [R]."""
    norm_R: torch.Tensor = torch.linalg.vector_norm(row_Rd, dim=1)
    return norm_R.clamp_min_(EPSILON).reciprocal_()


def own_unit_centres(weight_Ld: torch.Tensor, own_N: torch.Tensor) -> torch.Tensor:
    """Equals `normalize(weight_Ld)[own_N]`, with zeros where `own_N` is −1: float32 [N, d]."""
    if weight_Ld.shape[0] == 0:
        return weight_Ld.new_zeros(own_N.shape[0], weight_Ld.shape[1])
    own_Nd = weight_Ld.index_select(0, own_N.clamp_min(0))
    return own_Nd * (inverse_norm(own_Nd) * (own_N >= 0)).unsqueeze(1)


def negative_statistics(
    unit_Nd: torch.Tensor,
    own_N: torch.Tensor,
    weight_Ld: torch.Tensor,
    rows: RowSet,
    how: StreamSettings,
    *,
    with_pull: bool,
    keep: bool,
) -> NegativeStatistics:
    """First pass: each sample's softmax over its negatives among `rows`.

    Equals, with `c = unit_Nd @ normalize(weight_Ld[rows]).T` and `−inf` in `c` for the own class
    and for what the filter leaves out,

        logsumexp(scale * c, dim=1) == (peak + log2(mass)) * log(2)
        softmax(scale * c, dim=1) @ normalize(weight_Ld[rows]) == pull / mass[:, None]

    Args:
        unit_Nd: normalised embeddings, float32.
        own_N: int64, row of the own class in the table, −1 if this rank does not hold it.
        weight_Ld: this rank's centres, float32, of any length.
        rows: the rows that take part.
        how: scale, filter, budgets, product dtype.
        with_pull: whether to sum the centres, which costs a second product.
        keep: whether to keep the products if they fit the budget.
    """
    samples, size = unit_Nd.shape
    peak_N = unit_Nd.new_full((samples,), _NO_PEAK)
    mass_N = unit_Nd.new_zeros(samples)
    pull_Nd = torch.zeros_like(unit_Nd) if with_pull else None
    factor_dN = unit_Nd.to(how.matmul_dtype).T
    position_N = rows.positions(own_N)
    keep = keep and how.keeps(rows.count, samples)
    kept_AN = factor_dN.new_empty(rows.count, samples) if keep else None
    left_out = unit_Nd.new_full((), -math.inf)
    for start, stop in rows.blocks(how.block_rows(samples, size)):
        weight_Rd = rows.read(weight_Ld, start, stop)
        inverse_R1 = inverse_norm(weight_Rd).unsqueeze(1)
        factor_Rd = weight_Rd.to(how.matmul_dtype)
        product_RN = None if kept_AN is None else kept_AN[start:stop]
        product_RN = torch.mm(factor_Rd, factor_dN, out=product_RN)
        logit_RN = product_RN * inverse_R1
        if how.inter_class_filter is not None:
            logit_RN.masked_fill_(logit_RN > how.inter_class_filter, -math.inf)
        _put_own(logit_RN.mul_(how.log2_scale), position_N - start, left_out)
        raised_N = torch.maximum(peak_N, logit_RN.amax(0))
        shrink_N = torch.exp2(peak_N - raised_N)
        peak_N = raised_N
        power_RN = logit_RN.sub_(peak_N).exp2_()
        mass_N.mul_(shrink_N).add_(power_RN.sum(0))
        if pull_Nd is not None:
            share_RN = power_RN.mul_(inverse_R1).to(how.matmul_dtype)
            pull_Nd.mul_(shrink_N.unsqueeze(1)).add_(share_RN.T @ factor_Rd)
    return NegativeStatistics(peak_N, mass_N, pull_Nd, kept_AN)


def combine_statistics(peak_WN: torch.Tensor, mass_WN: torch.Tensor) -> torch.Tensor:
    """Equals `log2(sum(mass_WN * 2**peak_WN, dim=0))`: float32 [N].

    The statistics are those of W shards; −inf where no shard has a negative.
    """
    peak_N = peak_WN.amax(0)
    return peak_N + (mass_WN * torch.exp2(peak_WN - peak_N)).sum(0).log2()


def centre_gradients(
    weight_Ld: torch.Tensor, rows: RowSet, losses: list[CentreLoss], how: StreamSettings
) -> Iterator[tuple[int, int, torch.Tensor, torch.Tensor]]:
    """Second pass: yield `(start, stop, weight_Rd, gradient_Rd)` block by block.

    `gradient_Rd` equals the sum over the losses (micro-batches) of `autograd.grad(loss, weight)`
    at the rows' positions `[start, stop)` in `rows`, which must hold the rows of every loss. The
    caller may change `weight_Rd` and write it back (`RowSet.write`) before taking the next block.
    """
    merged = _Merged.of(losses, rows, weight_Ld)
    factor_Nd = merged.unit.to(how.matmul_dtype)
    for start, stop in rows.blocks(how.block_rows(*merged.unit.shape)):
        weight_Rd = rows.read(weight_Ld, start, stop)
        inverse_R1 = inverse_norm(weight_Rd).unsqueeze(1)
        if merged.product is None:
            product_RN = weight_Rd.to(how.matmul_dtype) @ factor_Nd.T
        else:
            product_RN = merged.product[start:stop]
        cosine_RN = product_RN * inverse_R1
        # d loss / d cosine: of each negative in proportion to its probability ...
        slope_RN = torch.mul(cosine_RN, how.log2_scale).sub_(merged.log2_total).exp2_()
        slope_RN.mul_(merged.negative)
        if how.inter_class_filter is not None:
            slope_RN.masked_fill_(cosine_RN > how.inter_class_filter, 0.0)
        # ... and of the own class as the loss has it.
        _put_own(slope_RN, merged.position - start, merged.positive)
        if merged.absent is not None:
            slope_RN.masked_fill_(merged.absent[start:stop][:, merged.part], 0.0)
        # d cosine / d weight = (unit − cosine · weight / |weight|) / |weight|
        radial_R1 = (slope_RN * cosine_RN).sum(1, keepdim=True).mul_(inverse_R1).mul_(inverse_R1)
        gradient_Rd = (slope_RN.mul_(inverse_R1).to(how.matmul_dtype) @ factor_Nd).float()
        yield start, stop, weight_Rd, gradient_Rd.addcmul_(weight_Rd, radial_R1, value=-1.0)


@dataclass(frozen=True)
class _Merged:
    """Several micro-batches' losses as one of all their samples, over one set of rows.

    `absent` is None, or bool [A, K]: rows that did not take part in a micro-batch. `part` is the
    micro-batch of each sample, [N]; the other fields are those of `CentreLoss`.
    """

    unit: torch.Tensor
    position: torch.Tensor
    log2_total: torch.Tensor
    negative: torch.Tensor
    positive: torch.Tensor
    product: torch.Tensor | None
    absent: torch.Tensor | None
    part: torch.Tensor

    @classmethod
    def of(cls, losses: list[CentreLoss], rows: RowSet, weight_Ld: torch.Tensor) -> "_Merged":
        only_one = len(losses) == 1
        return cls(
            unit=torch.cat([loss.unit for loss in losses]),
            position=rows.positions(torch.cat([loss.own for loss in losses])),
            log2_total=torch.cat([loss.log2_total for loss in losses]),
            negative=torch.cat([loss.negative for loss in losses]),
            positive=torch.cat([loss.positive for loss in losses]),
            product=losses[0].product if only_one else None,
            absent=None if only_one else _absent(losses, rows, weight_Ld),
            part=torch.cat([torch.full_like(loss.own, k) for k, loss in enumerate(losses)]),
        )


def _absent(losses: list[CentreLoss], rows: RowSet, weight_Ld: torch.Tensor) -> torch.Tensor | None:
    if rows.index is None:
        return None
    absent_AK = torch.ones(rows.count, len(losses), dtype=torch.bool, device=weight_Ld.device)
    for number, loss in enumerate(losses):
        assert loss.rows.index is not None, "a whole table makes the union a whole table"
        absent_AK[torch.searchsorted(rows.index, loss.rows.index), number] = False
    return absent_AK


def _put_own(block_RN: torch.Tensor, row_N: torch.Tensor, value: torch.Tensor) -> None:
    """Set `block_RN[row_N[n], n] = value[n]` for the samples whose row is in the block.

    Without selecting those samples, which on a GPU would make the host wait: the others write
    back what stands there already. No two samples share a column, so no two writes collide.
    """
    inside_N = (row_N >= 0) & (row_N < block_RN.shape[0])
    row_N = row_N.clamp(0, block_RN.shape[0] - 1)
    column_N = torch.arange(block_RN.shape[1], device=block_RN.device)
    value_N = torch.where(inside_N, value, block_RN[row_N, column_N])
    block_RN.index_put_((row_N, column_N), value_N)
