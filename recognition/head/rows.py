"""Which rows of a rank's table take part, and how they are split into blocks.

Shapes: L rows of the local table, A rows of the set, d embedding size, N samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

Bounds = Sequence[tuple[int, int]]
"""Ranges `[start, stop)` of positions in a row set, those of consecutive blocks."""


@dataclass(frozen=True)
class RowSet:
    """A set of rows of the local table: of all, they are read as slices, without a copy."""

    count: int  # A, how many rows
    index: Tensor | None = None  # int64 [A], strictly ascending; None for rows `0 … count − 1`
    # A set and the union with it, made ahead by `remember_union`.
    _union: "list[tuple[RowSet, RowSet]]" = field(default_factory=list, repr=False, compare=False)

    @classmethod
    def of(cls, index: Tensor) -> "RowSet":
        """Return the rows of an index, int64 [A], strictly ascending."""
        return cls(len(index), index)

    @classmethod
    def of_mask(cls, mask_L: Tensor) -> "RowSet":
        """Return the rows where a mask is true, bool [L]. The host waits for their number."""
        return cls.of(mask_L.nonzero().squeeze(1))

    @cached_property
    def host_index(self) -> Tensor | None:
        """The index in CPU memory; of one on a GPU it is copied once, for which the host waits."""
        return None if self.index is None else self.index.cpu()

    def tensors(self) -> list[Tensor]:
        """Return the tensors that it holds on the device that computes."""
        sets = [self, *(united for _, united in self._union)]
        return [rows.index for rows in sets if rows.index is not None]

    def blocks(self, size: int) -> Bounds:
        """Return the bounds of blocks of `size` positions, the last one shorter."""
        return [(start, min(start + size, self.count)) for start in range(0, self.count, size)]

    def positions(self, row_N: Tensor) -> Tensor:
        """Return each row's position in the set: int64 [N], −1 for a row that is not in it.

        A row number of −1 (no row of this rank) is in no set.
        """
        if self.index is None or self.count == 0:
            return torch.where(row_N < self.count, row_N, -1)
        position_N = torch.searchsorted(self.index, row_N).clamp_max(self.count - 1)
        return torch.where(self.index[position_N] == row_N, position_N, -1)


def local_rows(label_N: Tensor, start: int, stop: int) -> Tensor:
    """Return the row of each class id in the table of classes `[start, stop)`.

    int64 [N], −1 for a class that the table does not hold.
    """
    return torch.where((label_N >= start) & (label_N < stop), label_N - start, -1)


def union(sets: list[RowSet], table_rows: int, device: torch.device) -> RowSet:
    """Return the union of `sets`, all of them over one table of `table_rows` rows.

    Costs one byte per row of the table, and a wait of the host, unless the sets are one and the
    same or `remember_union` was called for each with the union of those before it.
    """
    whole = next((rows for rows in sets if rows.index is None), None)
    if whole is not None:
        return whole
    united: RowSet | None = sets[0]
    for rows in sets[1:]:
        united = next((result for other, result in rows._union if other is united), None)
    return _united(sets, table_rows, device) if united is None else united


def remember_union(before: RowSet, rows: RowSet, table_rows: int) -> RowSet:
    """Return the union of two sets, and have `union` return it later without a wait."""
    if before.index is None or rows.index is None:
        return before if before.index is None else rows
    united = _united([before, rows], table_rows, rows.index.device)
    rows._union[:] = [(before, united)]
    return united


def _united(sets: list[RowSet], table_rows: int, device: torch.device) -> RowSet:
    present_L = torch.zeros(table_rows, dtype=torch.bool, device=device)
    for rows in sets:
        assert rows.index is not None
        present_L.index_fill_(0, rows.index, True)
    return RowSet.of_mask(present_L)
