"""The second pass: the gradient of the centres, block by block, to be used up at once.

Shapes: S samples whose negatives count, U samples that have their own class only, A active
classes of this rank, R classes of one block, K centres a class, C = R·K centres of one block, d
embedding size, B micro-batches.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from recognition.head.blocks import Rule, Weights, slope_block
from recognition.head.kernels.plain import inverse_norm
from recognition.head.lanes import Lane, Lanes
from recognition.head.loss import Curriculum
from recognition.head.rows import RowRange, RowSet
from recognition.head.settings import StreamSettings
from recognition.head.streaming import Kept, Samples, factors
from recognition.head.table import Block, Table

Used = TypeVar("Used")


@dataclass(frozen=True)
class OwnOnly:
    """The centres' gradient from samples whose negatives are not looked at.

    Attributes:
        unit: float32 [U, d], normalised embeddings.
        own: int64 [U], row of the own class, −1 if elsewhere.
        place: int64 [U], which of the class's K centres.
        cosine: float32 [U], with that centre.
        slope: float32 [U], derivative of the loss by it.
    """

    unit: torch.Tensor
    own: torch.Tensor
    place: torch.Tensor
    cosine: torch.Tensor
    slope: torch.Tensor


@dataclass(frozen=True)
class CentreLoss:
    """What a backward pass leaves behind for the centres: O(N·d) numbers, whatever C is.

    Attributes:
        rows: the active rows.
        samples: those whose negatives count.
        place: int64 [S], which of the own class's K centres is the sample's.
        log2_total: float32 [S], log2 of the sum of the exponentials of all ranks' negatives; any
            finite number where there is none.
        negative: float32 [S], derivative of the loss by the negatives' log-sum-exp, times scale.
        positive: float32 [S], derivative of the loss by the cosine with the own centre.
        kept: what the first pass kept for the second, if it did.
        apart: the samples that have only their own class; None if there are none.
        width: samples that blocks are planned for, the same on every rank that must cut alike.
    """

    rows: RowSet
    samples: Samples
    place: torch.Tensor
    log2_total: torch.Tensor
    negative: torch.Tensor
    positive: torch.Tensor
    kept: Kept | None
    apart: OwnOnly | None
    width: int

    def scaled(self, factor: float | torch.Tensor) -> "CentreLoss":
        """Return the same for the loss times `factor`."""
        apart = self.apart
        return replace(
            self,
            negative=self.negative * factor,
            positive=self.positive * factor,
            apart=None if apart is None else replace(apart, slope=apart.slope * factor),
        )


@dataclass(frozen=True)
class BlockGradient:
    """The gradient of a block's centres, in two parts.

    Attributes:
        block: the centres.
        pull: [C, d], the samples' part: sum of slopes times unit embeddings; in `matmul_dtype`.
        radial: float32 [C]; this times a centre is to be taken off, so that a step stays
            perpendicular to it.
        apart: samples that have only their own class.
    """

    block: Block
    pull: torch.Tensor
    radial: torch.Tensor
    apart: list[OwnOnly]

    def whole(self, rows: RowSet) -> torch.Tensor:
        """Return the gradient, float32 [R, K·d]; `rows` is the set that was walked.

        To be asked for once, and to be used before the next block: it is made in place.
        """
        weight = self.block.read("weight")
        weight_Cd, gradient_Cd = weight.view(self.pull.shape), self.pull
        if gradient_Cd.dtype != torch.float32:
            space = self.block.space
            gradient_Cd = space.like("gradient", self.pull, torch.float32).copy_(self.pull)
        # d cosine / d weight = (unit − cosine · weight / |weight|) / |weight|
        gradient_Cd.addcmul_(weight_Cd, self.radial.unsqueeze(1), value=-1.0)
        for apart in self.apart:
            _add_own(gradient_Cd, weight_Cd, apart, rows, self.block)
        return gradient_Cd.view(weight.shape)


def centre_gradients(
    table: Table,
    rows: RowSet,
    losses: list[CentreLoss],
    how: StreamSettings,
    lanes: Lanes,
    use: Callable[[BlockGradient], Used],
    *,
    with_state: bool = False,
) -> Iterator[Used]:
    """Second pass: give `use` the gradient block by block, and yield what it returns, in order.

    It equals the sum over the losses (micro-batches) of `autograd.grad(loss, weight)` at the
    rows' positions in `rows`, which must hold the rows of every loss. `use` may change the block
    and bring it home (`Table.write`); it is called by several threads where `lanes` has them, and
    a gradient holds until it returns.
    """
    merged = _Merged.of(losses, rows)
    size = merged.samples.unit.shape[1]
    centres = table.weight.shape[1] // size
    rule = Rule(how.log2_scale, how.inter_class_filter, merged.samples.curriculum, centres)
    factor_Sd = merged.samples.unit.to(how.matmul_dtype)

    def part(lane: Lane, part: RowRange) -> list[Used]:
        return [
            use(_block_gradient(lane, block, merged, factor_Sd, rule))
            for block in table.walk(part, lane.space, with_state=with_state)
        ]

    for used in lanes.map(part, rows, how.block_rows(merged.width, size, centres)):
        yield from used


def _block_gradient(
    lane: Lane, block: Block, merged: "_Merged", factor_Sd: torch.Tensor, rule: Rule
) -> BlockGradient:
    """Return the gradient of one block's centres."""
    (count, size), dtype, kept = factor_Sd.shape, factor_Sd.dtype, merged.kept
    if not lane.ops.updates_in_place:
        block.read("weight")  # once, for the products and for the update
    if kept is None:
        factor_Cd, inverse_C = factors(block, size, rule.centres, dtype, lane.ops)
        product_CS = lane.space.take("product", (len(factor_Cd), count), dtype, factor_Sd.device)
        torch.mm(factor_Cd, factor_Sd.T, out=product_CS)
    else:
        of_block = kept.block(block, rule.centres)
        product_CS, inverse_C = of_block.product, of_block.inverse
    absent_RB = None if merged.absent is None else merged.absent[block.start : block.stop]
    slope_CS, radial_C = slope_block(
        lane.ops, product_CS, inverse_C, merged.position - block.start, rule, merged.weights,
        # Kept products stay: this pass may be made twice, by `gradient_norm` and by `step`.
        absent_RB, in_place=kept is None,
    )  # fmt: skip
    pull_Cd = lane.space.take("pull", (len(product_CS), size), dtype, factor_Sd.device)
    torch.mm(slope_CS, factor_Sd, out=pull_Cd)
    return BlockGradient(block, pull_Cd, radial_C, merged.apart)


def _add_own(
    gradient_Cd: torch.Tensor,
    weight_Cd: torch.Tensor,
    apart: OwnOnly,
    rows: RowSet,
    block: Block,
) -> None:
    """Add the gradient of centres from samples that have only their own class.

    Samples of other blocks add zeros, so that nothing is selected and no GPU waited for.
    """
    centres = len(weight_Cd) // (block.stop - block.start)
    position_U = rows.positions(apart.own) - block.start
    inside_U = (position_U >= 0) & (position_U < block.stop - block.start)
    centre_U = (position_U * centres + apart.place).clamp(0, len(weight_Cd) - 1)
    own_Ud = weight_Cd[centre_U]
    inverse_U1 = inverse_norm(own_Ud).unsqueeze(1)
    toward_Ud = own_Ud * (inverse_U1 * apart.cosine.unsqueeze(1))
    slope_U1 = (apart.slope * inside_U).unsqueeze(1) * inverse_U1
    # Accumulating index_put sums duplicates in a fixed order on a GPU too; index_add does not.
    gradient_Cd.index_put_((centre_U,), (apart.unit - toward_Ud) * slope_U1, accumulate=True)


@dataclass(frozen=True)
class _Merged:
    """Several micro-batches' losses as one of all their samples, over one set of rows.

    `absent` is None, or bool [A, B]: rows that did not take part in a micro-batch; `position` is
    the own row's place in `rows`; the other fields are those of `CentreLoss`.
    """

    samples: Samples
    position: torch.Tensor
    weights: Weights
    kept: Kept | None
    apart: list[OwnOnly]
    absent: torch.Tensor | None
    width: int

    @classmethod
    def of(cls, losses: list[CentreLoss], rows: RowSet) -> "_Merged":
        only_one = len(losses) == 1
        own_S = torch.cat([loss.samples.own for loss in losses])
        curricula = [c for c in (loss.samples.curriculum for loss in losses) if c is not None]
        curriculum = None
        if curricula:
            curriculum = Curriculum(
                torch.cat([each.bound for each in curricula]),
                torch.cat([each.boost for each in curricula]),
            )
        return cls(
            samples=Samples(torch.cat([loss.samples.unit for loss in losses]), own_S, curriculum),
            position=rows.positions(own_S),
            weights=Weights(
                place=torch.cat([loss.place for loss in losses]),
                log2_total=torch.cat([loss.log2_total for loss in losses]),
                negative=torch.cat([loss.negative for loss in losses]),
                positive=torch.cat([loss.positive for loss in losses]),
                part=torch.cat([torch.full_like(loss.place, k) for k, loss in enumerate(losses)]),
            ),
            kept=losses[0].kept if only_one else None,
            apart=[loss.apart for loss in losses if loss.apart is not None],
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
