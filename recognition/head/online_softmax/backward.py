"""The second pass: the gradient of the centres, block by block, to be used up at once.

The derivative of the loss by a centre w is `(pull − (pull·w / |w|²)·w)`, with

    pull = Σ_negatives f·share·unit + Σ_own slope·unit / |w|

whose shares are those of the first pass (`streaming`), at a peak p, and `f = negative·2^(p −
log2_total)` a number of each sample.

Shapes: S samples whose negatives count, N samples in all, A active classes of this rank, R classes
of one block, K centres a class, C = R·K centres of one block, d embedding size, B micro-batches.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from recognition.head.kernels.block import Block, LogitTransform
from recognition.head.losses.base import Curriculum
from recognition.head.online_softmax.forward import Kept, Samples
from recognition.head.online_softmax.settings import StreamSettings
from recognition.head.online_softmax.threads import Lane, Lanes
from recognition.head.placement.table import Table
from recognition.head.rows import RowRange, RowSet

Used = TypeVar("Used")


@dataclass(frozen=True)
class OwnSlopes:
    """What samples have to do with their own centres.

    Attributes:
        unit: float32 [N, d], normalised embeddings.
        row: int64 [N], of the own class in the table, −1 if elsewhere.
        place: int64 [N], which of the class's K centres.
        slope: float32 [N], derivative of the loss by the cosine with that centre.
    """

    unit: torch.Tensor
    row: torch.Tensor
    place: torch.Tensor
    slope: torch.Tensor


@dataclass(frozen=True)
class CentreLoss:
    """What a backward pass leaves behind for the centres: O(N·d) numbers, whatever C is.

    Attributes:
        rows: the active rows.
        samples: those whose negatives count.
        log2_total: float32 [S], log2 of the sum of the exponentials of all ranks' negatives; any
            finite number where there is none.
        negative: float32 [S], derivative of the loss by the negatives' log-sum-exp, times scale.
        own: of all samples.
        kept: what the first pass kept for the second, if it did.
        width: samples that blocks are planned for, the same on every rank that must cut alike.
    """

    rows: RowSet
    samples: Samples
    log2_total: torch.Tensor
    negative: torch.Tensor
    own: OwnSlopes
    kept: Kept | None
    width: int

    def scaled(self, factor: float | torch.Tensor) -> "CentreLoss":
        """Return the same for the loss times `factor`."""
        own = replace(self.own, slope=self.own.slope * factor)
        return replace(self, negative=self.negative * factor, own=own)


def centre_gradients(
    table: Table,
    rows: RowSet,
    losses: list[CentreLoss],
    how: StreamSettings,
    lanes: Lanes,
    use: Callable[[Lane, Block, torch.Tensor], Used],
    *,
    with_state: bool = False,
) -> Iterator[Used]:
    """Second pass: give `use` the gradient block by block, and yield what it returns, in order.

    `use` gets a lane, a block, and what `full_gradient` makes into the block's gradient: the sum
    over the losses (micro-batches) of `autograd.grad(loss, weight)` at the rows' positions in
    `rows`, which must hold the rows of every loss. It may change the block and write it; it is
    called by several threads where `lanes` has them, and a gradient holds until it returns.
    """
    size = losses[0].samples.unit.shape[1]
    centres = table.weight.shape[1] // size
    merged = _Merged.of(losses, rows, centres)
    rule = LogitTransform(
        how.log2_scale, how.inter_class_filter, merged.samples.curriculum, centres
    )
    run = _SecondPass(merged, rule, how.matmul_dtype)

    def part(lane: Lane, part: RowRange) -> list[Used]:
        return [
            use(lane, block, run.grad_unit(lane, block))
            for block in table.walk(part, lane.space, with_state=with_state)
        ]

    for used in lanes.map(part, rows, how.block_rows(merged.width, size, centres)):
        yield from used


class _SecondPass:
    """The second pass over any block; see `centre_gradients`."""

    def __init__(self, merged: "_Merged", rule: LogitTransform, dtype: torch.dtype) -> None:
        self._merged, self._rule, self._dtype = merged, rule, dtype
        unit_Sd = merged.samples.unit
        self._factor_Sd = unit_Sd.to(dtype)
        self._start_S = unit_Sd.new_full((len(unit_Sd),), rule.initial_max)
        self._pulling_Sd = self._pulling(self._start_S)

    def grad_unit(self, lane: Lane, block: Block) -> torch.Tensor:
        """Return the gradient of one block's centres but for the part along each: [C, d]."""
        kept, centres, size = self._merged.kept, self._rule.centres, self._factor_Sd.shape[1]
        pulling_Sd = self._pulling_Sd
        if kept is None:
            share_CS, peak_S = self._shares(lane, block)
        else:
            share_CS, peak_S = kept.of_block(block, centres), kept.peak.get(block.start)
        if peak_S is not None:
            pulling_Sd = self._pulling(peak_S)
        shape, device = (len(share_CS), size), share_CS.device
        pull_Cd = lane.space.take("pull", shape, self._dtype, device)
        torch.mm(share_CS, pulling_Sd, out=pull_Cd)
        own, of_centres = self._merged.own, block.by_centre(size)
        lane.ops.add_targets(of_centres, pull_Cd, own.position - of_centres.start, own.pull)
        return pull_Cd

    def _shares(self, lane: Lane, block: Block) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Make a block's shares once more, and return their peaks if those are not `_start_S`."""
        merged, rule = self._merged, self._rule
        (count, size), device = self._factor_Sd.shape, self._factor_Sd.device
        factor_Cd, inverse_C = lane.ops.read_rows(block.by_centre(size), self._dtype)
        share_CS = lane.space.take("share", (len(factor_Cd), count), self._dtype, device)
        torch.mm(factor_Cd, self._factor_Sd.T, out=share_CS)
        if merged.absent is not None:
            absent_RS = merged.absent[block.start : block.stop, merged.part]
            of_class = share_CS.view(len(absent_RS), rule.centres, count)
            of_class.masked_fill_(absent_RS.unsqueeze(1), -math.inf)
        peak_S = self._start_S if rule.max_is_fixed else self._start_S.clone()
        position_S, mass_S = merged.position - block.start, torch.zeros_like(peak_S)
        lane.ops.softmax_block(share_CS, inverse_C, position_S, rule, peak_S, mass_S)
        return share_CS, None if rule.max_is_fixed else peak_S

    def _pulling(self, peak_S: torch.Tensor) -> torch.Tensor:
        """Return what shares at a peak are multiplied with: [S, d] in the products' dtype."""
        factor_S = self._merged.negative * torch.exp2(peak_S - self._merged.log2_total)
        return (self._merged.samples.unit * factor_S.unsqueeze(1)).to(self._dtype)


@dataclass(frozen=True)
class _OwnPulls:
    """The own samples' part in centres' gradients, times the centre's norm, summed a centre.

    Attributes:
        position: int64 [N], of the centre among those of the set of rows, each once; −1 for none.
        pull: float32 [N, d].
    """

    position: torch.Tensor
    pull: torch.Tensor

    @classmethod
    def of(cls, slopes: list[OwnSlopes], rows: RowSet, centres: int) -> "_OwnPulls":
        """Sum those of several micro-batches over one set of rows."""
        row_N = torch.cat([own.row for own in slopes])
        place_N = torch.cat([own.place for own in slopes])
        pull_Nd = torch.cat([own.unit * own.slope.unsqueeze(1) for own in slopes])
        row_N = rows.positions(row_N)
        centre_N = torch.where(row_N >= 0, row_N * centres + place_N, -1)
        centre_N, order_N = centre_N.sort(stable=True)
        begins_N = torch.ones_like(centre_N)
        begins_N[1:] = centre_N[1:] != centre_N[:-1]
        target_N = begins_N.cumsum(0) - 1
        sum_Nd = _sum_rows(target_N, pull_Nd[order_N])
        position_N = torch.full_like(centre_N, -1).index_put_((target_N,), centre_N)
        return cls(position_N, sum_Nd)


def _sum_rows(target_N: torch.Tensor, row_Nd: torch.Tensor) -> torch.Tensor:
    """Return the sums of the rows with the same target, [N, d], in an order that never varies.

    On a CPU that is index_add's, while several threads of index_put meet as they come; on a GPU
    it is the other way about.
    """
    sum_Nd = torch.zeros_like(row_Nd)
    if row_Nd.device.type == "cpu":
        return sum_Nd.index_add_(0, target_N, row_Nd)
    return sum_Nd.index_put_((target_N,), row_Nd, accumulate=True)


@dataclass(frozen=True)
class _Merged:
    """Several micro-batches' losses as one of all their samples, over one set of rows.

    `part` is each sample's micro-batch, int64 [S]; `absent` is None, or bool [A, B]: rows that did
    not take part in a micro-batch; `position` is the own row's place in `rows`; the other fields
    are those of `CentreLoss`.
    """

    samples: Samples
    position: torch.Tensor
    log2_total: torch.Tensor
    negative: torch.Tensor
    part: torch.Tensor
    own: _OwnPulls
    kept: Kept | None
    absent: torch.Tensor | None
    width: int

    @classmethod
    def of(cls, losses: list[CentreLoss], rows: RowSet, centres: int) -> "_Merged":
        only_one = len(losses) == 1
        own_S = torch.cat([loss.samples.own for loss in losses])
        curricula = [c for c in (loss.samples.curriculum for loss in losses) if c is not None]
        curriculum = None
        if curricula:
            curriculum = Curriculum(
                torch.cat([each.bound for each in curricula]),
                torch.cat([each.boost for each in curricula]),
            )
        part = [torch.full_like(loss.samples.own, k) for k, loss in enumerate(losses)]
        return cls(
            samples=Samples(torch.cat([loss.samples.unit for loss in losses]), own_S, curriculum),
            position=rows.positions(own_S),
            log2_total=torch.cat([loss.log2_total for loss in losses]),
            negative=torch.cat([loss.negative for loss in losses]),
            part=torch.cat(part),
            own=_OwnPulls.of([loss.own for loss in losses], rows, centres),
            kept=losses[0].kept if only_one else None,
            absent=None if only_one else _absent(losses, rows),
            width=sum(loss.width for loss in losses),
        )


def _absent(losses: list[CentreLoss], rows: RowSet) -> torch.Tensor | None:
    if rows.index is None:
        return None
    absent_AB = torch.ones(rows.count, len(losses), dtype=torch.bool, device=rows.index.device)
    for number, loss in enumerate(losses):
        assert loss.rows.index is not None, "a whole table makes the union a whole table"
        absent_AB[torch.searchsorted(rows.index, loss.rows.index), number] = False
    return absent_AB
