"""Steps the rows of a table with their gradients, block by block."""

from dataclasses import dataclass

import torch

from recognition.head.kernels.block import Block
from recognition.head.kernels.reference import BlockOps, full_gradient
from recognition.head.online_softmax.threads import Lane, Lanes
from recognition.head.optim.rounding import RowNoise
from recognition.head.optim.row_optimizers import RowOptimizer, RowSGD
from recognition.head.placement.collectives import AnyExchange, ReplicatedExchange
from recognition.head.placement.table import Table
from recognition.head.rows import RowRange, RowSet


@dataclass(frozen=True)
class RowStepper:
    """What it takes to move a block of rows.

    Attributes:
        table: the rows and their optimizer state.
        optimizer: its rule.
        exchange: the ranks, which may have to add up the gradient first.
        first_class: global class id of row 0.
        seed: of stochastic rounding.
    """

    table: Table
    optimizer: RowOptimizer
    exchange: AnyExchange
    first_class: int
    seed: int

    def step(
        self, ops: BlockOps, block: Block, grad_unit: torch.Tensor, lr: float, step: int
    ) -> None:
        """Move a block of rows at learning rate `lr`, in step number `step`.

        `full_gradient` makes the block's gradient of `grad_unit`.
        """
        optimizer = self.optimizer
        if isinstance(optimizer, RowSGD) and self._has_kernel(optimizer, block, grad_unit):
            noise = self._noise(block, step) if optimizer.rounds else None
            ops.update_rows_sgd(block, grad_unit, optimizer, lr, noise)
            block.write()
        else:
            whole = self.exchange.centre_gradient(full_gradient(block, grad_unit))
            self._update(block, whole, lr, step)

    def step_without_gradient(
        self, lanes: Lanes, rows: RowSet, size: int, lr: float, step: int
    ) -> None:
        """Move rows that took no part, in blocks of `size`: momentum and decay alone."""

        def part(lane: Lane, part: RowRange) -> None:
            for block in self.table.walk(part, lane.space, with_state=True):
                self._update(block, torch.zeros_like(block.read("weight")), lr, step)

        for _ in lanes.map(part, rows, size):
            pass

    def _has_kernel(self, optimizer: RowSGD, block: Block, grad_unit: torch.Tensor) -> bool:
        """Return whether one operation steps these rows, from the gradient's parts."""
        summed = isinstance(self.exchange, ReplicatedExchange) and self.exchange.size > 1
        one_centre = grad_unit.shape[1] == block.tensors["weight"].shape[1]
        return optimizer.momentum > 0.0 and one_centre and not summed

    def _update(self, block: Block, gradient: torch.Tensor, lr: float, step: int) -> None:
        state = {name: block.read(name) for name in self.table.state_names}
        self.optimizer.update(block.read("weight"), state, gradient, lr, self._noise(block, step))
        block.write()

    def _noise(self, block: Block, step: int) -> RowNoise:
        return RowNoise(self.seed, step, self.first_class + block.row_numbers())
