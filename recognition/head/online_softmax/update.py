"""Steps the rows of a table with their gradients, block by block."""

from dataclasses import dataclass

import torch

from recognition.head.kernels.interface import BlockOps
from recognition.head.online_softmax.backward import BlockGradient
from recognition.head.online_softmax.threads import Lane, Lanes
from recognition.head.optim.rounding import RowNoise
from recognition.head.optim.row_optimizers import RowOptimizer, RowSGD
from recognition.head.placement.collectives import AnyExchange, ReplicatedExchange
from recognition.head.placement.table import Block, Table
from recognition.head.rows import RowRange, RowSet


@dataclass(frozen=True)
class RowStepper:
    """What it takes to move a block of rows.

    Attributes:
        table: the rows and their optimizer state.
        optimizer: its rule.
        ops: the operations for this device, which may step rows where they stand.
        exchange: the ranks, which may have to add up the gradient first.
        first_class: global class id of row 0.
        seed: of stochastic rounding.
    """

    table: Table
    optimizer: RowOptimizer
    ops: BlockOps
    exchange: AnyExchange
    first_class: int
    seed: int

    def step(self, rows: RowSet, gradient: BlockGradient, lr: float, step: int) -> None:
        """Move a block of `rows` by its gradient at learning rate `lr`, in step number `step`."""
        block, optimizer = gradient.block, self.optimizer
        if isinstance(optimizer, RowSGD) and self._has_kernel(optimizer, gradient):
            self.ops.update_rows_sgd(
                block.tensors["weight"], block.tensors["momentum"], block.index, block.first,
                block.last, gradient.pull, lr=lr, momentum=optimizer.momentum,
                weight_decay=optimizer.weight_decay, nesterov=optimizer.nesterov,
                noise=self._noise(rows, block, step) if optimizer.rounds else None,
            )  # fmt: skip
        else:
            whole = self.exchange.centre_gradient(gradient.whole())
            self._update(rows, block, whole, lr, step)
        self.table.write(rows, block)

    def step_without_gradient(
        self, lanes: Lanes, rows: RowSet, size: int, lr: float, step: int
    ) -> None:
        """Move rows that took no part, in blocks of `size`: momentum and decay alone."""

        def part(lane: Lane, part: RowRange) -> None:
            for block in self.table.walk(part, lane.space, with_state=True):
                self._update(rows, block, torch.zeros_like(block.read("weight")), lr, step)
                self.table.write(rows, block)

        for _ in lanes.map(part, rows, size):
            pass

    def _has_kernel(self, optimizer: RowSGD, gradient: BlockGradient) -> bool:
        """Return whether a kernel steps these rows where they stand, from the gradient's parts."""
        summed = isinstance(self.exchange, ReplicatedExchange) and self.exchange.size > 1
        one_centre = gradient.pull.shape[1] == self.table.weight.shape[1]
        return self.ops.updates_in_place and optimizer.momentum > 0.0 and one_centre and not summed

    def _update(
        self, rows: RowSet, block: Block, gradient: torch.Tensor, lr: float, step: int
    ) -> None:
        state = {name: block.read(name) for name in self.table.state_names}
        noise = self._noise(rows, block, step)
        self.optimizer.update(block.read("weight"), state, gradient, lr, noise)
        block.write()

    def _noise(self, rows: RowSet, block: Block, step: int) -> RowNoise:
        numbers_R = rows.numbers(block.start, block.stop, block.tensors["weight"].device)
        return RowNoise(self.seed, step, self.first_class + numbers_R)
