"""Updates the rows of a table with their gradients, block by block."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from recognition.head.kernels.block import Block
from recognition.head.kernels.reference import BlockOps, full_gradient
from recognition.head.online_softmax.stream import BlockStream
from recognition.head.optim.rounding import RowNoise
from recognition.head.optim.row_optimizers import RowOptimizer, RowSGD
from recognition.head.placement.collectives import Collectives
from recognition.head.rows import RowSet


@dataclass(frozen=True)
class RowUpdater:
    """What it takes to update a block of rows.

    Attributes:
        stream: this rank's centres.
        optimizer: of the rows.
        collectives: the ranks, which may have to add up the gradient first.
        first_class: global class id of row 0.
        seed: of stochastic rounding.
    """

    stream: BlockStream
    optimizer: RowOptimizer
    collectives: Collectives
    first_class: int
    seed: int

    def update(self, ops: BlockOps, block: Block, grad_unit: Tensor, lr: float, step: int) -> None:
        """Update a block's rows at learning rate `lr`, in step number `step`, and write them.

        `full_gradient` makes the block's gradient of `grad_unit`.
        """
        optimizer = self.optimizer
        if isinstance(optimizer, RowSGD) and self._has_kernel(optimizer, block, grad_unit):
            noise = self._noise(block, step) if optimizer.rounds else None
            ops.update_rows_sgd(block, grad_unit, optimizer, lr, noise)
            block.write()
        else:
            gradient = self.collectives.sum_block(full_gradient(block, grad_unit))
            self._update(block, gradient, lr, step)

    def update_without_gradient(self, rows: RowSet, lr: float, step: int) -> None:
        """Update rows that took no part: momentum and decay alone."""

        def part(ops: BlockOps, blocks: Iterator[Block]) -> None:
            for block in blocks:
                self._update(block, torch.zeros_like(block.read("weight")), lr, step)

        for _ in self.stream.map(part, rows, samples=1, with_state=True):
            pass

    def _has_kernel(self, optimizer: RowSGD, block: Block, grad_unit: Tensor) -> bool:
        """Return whether one operation updates these rows, straight from `grad_unit`."""
        one_centre = grad_unit.shape[1] == block.tensors["weight"].shape[1]
        return optimizer.momentum > 0.0 and one_centre and not self.collectives.sums_blocks

    def _update(self, block: Block, gradient: Tensor, lr: float, step: int) -> None:
        state = {name: block.read(name) for name in block.tensors if name != "weight"}
        self.optimizer.update(block.read("weight"), state, gradient, lr, self._noise(block, step))
        block.write()

    def _noise(self, block: Block, step: int) -> RowNoise:
        return RowNoise(self.seed, step, self.first_class + block.row_numbers())
