"""Rows that take no part in a step move on, as if their gradient had been zero.

Each row has the number of steps that it has made. Those that it missed are made up for when the row
is next read: all at once, by the product of what each step does to weight and momentum. A step
costs nothing for the rows that nobody looks at.

Shapes: L rows of the table, R rows of a block.
"""

import torch
from torch import Tensor

from recognition.head.kernels.reference import BlockOps
from recognition.head.kernels.workspace import Workspace
from recognition.head.optim.history import IDENTITY, Missed, StepHistory
from recognition.head.optim.row_optimizers import RowOptimizer
from recognition.head.placement.table import Table
from recognition.head.rows import RowSet

# Of one tensor's rows that make up for their steps at a time: a GPU needs few launches.
_BYTES = {"cpu": 1 << 22, "cuda": 1 << 26}


class Coasting:
    """What the rows of a table have missed.

    Args:
        table: whose rows are to move on.
        optimizer: of the rows.
        ops: block operations where the table is.
        seed: of stochastic rounding.
        first_class: class id of row 0.
        in_blocks: whether blocks of the table make up for missed steps when they are read (see
            `Block.missed`); else `prepare` does so in the table.
    """

    def __init__(
        self, table: Table, optimizer: RowOptimizer, ops: BlockOps, seed: int, first_class: int, *,
        in_blocks: bool,
    ) -> None:  # fmt: skip
        self._table, self._optimizer, self._ops = table, optimizer, ops
        self._in_blocks = in_blocks
        self._seed, self._first_class = seed, first_class
        self._all_settled = 0  # steps after which no row had any left to make up for
        self._last_step = 0  # its number, with which the bits of rounding change
        device = table.weight.device
        self._history = StepHistory(device)
        self._made_L = torch.zeros(len(table.weight), dtype=torch.int16, device=device)
        table.motion = self

    def prepare(self, rows: RowSet) -> None:
        """See `Motion.prepare`."""
        if not self._in_blocks:
            self.settle(rows)

    def missed(self, rows: Tensor | slice) -> Missed | None:
        """See `Motion.missed`."""
        return self._missed(rows) if self._in_blocks and self._history.now > 0 else None

    def settle(self, rows: RowSet) -> None:
        """Make up for all that these rows have missed, in the table."""
        if self._history.now == self._all_settled or rows.count == 0:
            return
        table, index = self._table, self._index(rows)
        row_bytes = max(tensor[:1].nbytes for tensor in table.tensors().values())
        block_rows = max(1, _BYTES[table.weight.device.type] // row_bytes)
        bounds, space = rows.blocks(block_rows), Workspace()
        for block in table.local_blocks(RowSet(rows.count, index), bounds, space):
            missed = self._missed(block.rows_of_table())
            # Steps below 0 are no updates', and −1 is that of the initial centres.
            noise = block.noise(self._seed, -2 - self._last_step, self._first_class)
            self._ops.coast(block, self._optimizer, missed, noise)
        self._mark(index)
        if index is None:
            self._all_settled = self._history.now

    def settle_all(self) -> None:
        """Make up for all that any row has missed: the table is then all there is to know."""
        self.settle(RowSet(len(self._table.weight)))
        self._forget()

    def step(
        self, rows: RowSet | None, lr: float, number: int, skip: bool | Tensor = False
    ) -> None:
        """Note that a step is made: `rows` have been updated, all others will move by themselves.

        No row moves in a skipped one; see `StepHistory.add`. None for a step without any gradient.
        `number` is the head's.
        """
        self._last_step = number
        if rows is not None and rows.count == len(self._made_L):
            self._forget()  # no row missed this step, nor any before
            return
        if rows is not None:
            self._mark(self._index(rows), 1)
        if isinstance(skip, Tensor):
            skip = skip.to(self._made_L.device)  # of a table in CPU memory the host waits for it
        self._history.add(lr, self._optimizer.coasting_matrix(lr) or IDENTITY, skip)
        if self._history.is_full:
            self.settle_all()

    def _forget(self) -> None:
        self._all_settled = 0
        if self._history.now > 0:
            self._history.clear()
            self._made_L.zero_()

    def _index(self, rows: RowSet) -> Tensor | None:
        """Return a row set's index on the device of the table."""
        on_host = self._made_L.device.type == "cpu"
        return rows.host_index if on_host else rows.index

    def _mark(self, index: Tensor | None, ahead: int = 0) -> None:
        if index is None:
            self._made_L.fill_(self._history.now + ahead)
        else:
            self._made_L.index_fill_(0, index, self._history.now + ahead)

    def _missed(self, rows: Tensor | slice) -> Missed:
        return self._history.missed(self._made_L[rows])
