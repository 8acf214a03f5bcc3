"""The gradients of the centres that wait for an update, made block by block when needed.

Shapes: C centres of a block, d embedding size.
"""

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from recognition.head.kernels.block import Block
from recognition.head.kernels.reference import BlockOps, full_gradient
from recognition.head.online_softmax.backward import CentreLoss, centre_gradients
from recognition.head.online_softmax.stream import BlockStream
from recognition.head.placement.collectives import Collectives
from recognition.head.rows import RowSet, union

Result = TypeVar("Result")


class PendingGradients:
    """What the backward passes since the last update left behind for the centres.

    Args:
        stream: this rank's centres.
        collectives: the ranks.
    """

    def __init__(self, stream: BlockStream, collectives: Collectives) -> None:
        self._stream, self._collectives = stream, collectives
        self._losses: list[CentreLoss] = []

    def add(self, loss: CentreLoss) -> None:
        """Add those of one backward pass."""
        self._losses.append(loss)

    def clear(self) -> None:
        """Drop all, and give back their memory."""
        for loss in self._losses:
            if loss.kept is not None:
                self._stream.threads.ops.space.release(loss.kept.exp)
        self._losses.clear()

    def rows(self) -> RowSet:
        """Return the rows that have a gradient; raises `ValueError` when nothing waits."""
        if not self._losses:
            raise ValueError(
                "no gradient waits for the centres: call head(...).loss.backward() first"
            )
        table = self._stream.table
        return union([loss.rows for loss in self._losses], len(table.weight), table.device)

    def map(
        self,
        use: Callable[[BlockOps, Block, Tensor], Result],
        rows: RowSet,
        grad_scale: float | Tensor,
        *,
        with_state: bool = False,
    ) -> Iterator[Result]:
        """Yield what `use` returns for each block of `rows`, which `rows()` gave.

        See `centre_gradients`. Gradients are divided by `grad_scale`.
        """
        losses = [loss.scaled(1.0 / grad_scale) for loss in self._losses]
        with torch.autocast(self._stream.table.device.type, enabled=False):
            yield from centre_gradients(self._stream, rows, losses, use, with_state=with_state)

    def norm(self, grad_scale: float | Tensor) -> Tensor:
        """Return the norm over all ranks: scalar. Costs a second pass, and collectives."""

        def square_sum(ops: BlockOps, block: Block, grad_unit_Cd: Tensor) -> Tensor:
            whole = self._collectives.sum_block(full_gradient(block, grad_unit_Cd))
            return whole.square().sum()

        total = torch.zeros((), device=self._stream.table.device)
        for square in self.map(square_sum, self.rows(), grad_scale):
            total += square
        return self._collectives.sum_over_classes(total).sqrt()

    def finite(self) -> Tensor:
        """Return whether all are finite: bool scalar, at next to no cost.

        Every gradient of a centre is a sum of unit vectors with the numbers per sample that are
        looked at here.
        """
        finite = torch.ones((), dtype=torch.bool, device=self._stream.table.device)
        for loss in self._losses:
            finite &= loss.grad_lse.isfinite().all() & loss.targets.grad.isfinite().all()
        return finite
