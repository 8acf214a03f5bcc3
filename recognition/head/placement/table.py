"""The class centres with their optimizer state, read and written in blocks of rows.

Shapes: L classes of this rank, N samples, D numbers per class: its K centres of d each.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from recognition.head.kernels.block import Block
from recognition.head.kernels.workspace import Workspace
from recognition.head.optim.history import Missed
from recognition.head.optim.rounding import RowNoise
from recognition.head.optim.storage import ROUNDED, decode, encode, stored_names
from recognition.head.rows import Bounds, RowSet


class Motion(Protocol):
    """How rows move in steps that they take no part in; see `Coasting`."""

    def prepare(self, rows: RowSet) -> None:
        """Make sure that blocks of these rows are read as they are now."""
        ...

    def missed(self, rows: Tensor | slice) -> Missed | None:
        """Return what a block of these rows has to make up for, or None if it need not."""
        ...


class Table(nn.Module):
    """Class centres and optimizer state on the device that computes.

    Args:
        weight: [L, D], in one of the forms of `optim.storage`.
        state: the optimizer's tensors by name, each [L, ...], and the scales of a weight in int8.

    Attributes:
        stages: whether `stage` sends rows ahead of the passes that need them.
        motion: how rows move that take no part in a step; None if they stay as they are.
    """

    weight: Tensor
    stages = False
    motion: Motion | None = None

    def __init__(self, weight: Tensor, state: dict[str, Tensor]) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.state_names = tuple(state)
        for name, tensor in state.items():
            self.register_buffer(name, tensor)

    @property
    def device(self) -> torch.device:
        """Where blocks are computed."""
        return self.weight.device

    @property
    def weight_names(self) -> tuple[str, ...]:
        """The names of the tensors that hold the weight."""
        return stored_names("weight", self.weight.dtype)

    @property
    def lower_half(self) -> Tensor | None:
        """The lower half of the weight where it is kept in two; see `SplitTable`."""
        return None

    def tensors(self) -> dict[str, Tensor]:
        """Return weight and state by name: the tensors themselves, in the form that is kept."""
        return {name: getattr(self, name) for name in ("weight", *self.state_names)}

    def layout(self) -> dict[str, tuple[torch.Size, torch.dtype]]:
        """Return shape, [L, ...], and dtype of weight and state by name, as checkpoints have them.

        Whoever saves or loads a table uses this, `read_rows` and `write_rows`, never its tensors:
        a subclass may keep them in another form.
        """
        return {name: (tensor.shape, tensor.dtype) for name, tensor in self.tensors().items()}

    def read_rows(self, name: str, start: int, stop: int) -> Tensor:
        """Return rows `[start, stop)` of "weight" or of a state: shape and dtype of `layout`.

        On the device where the table is; may be a view of it, so do not change it. Threads may
        call this at the same time.
        """
        return self.tensors()[name][start:stop]

    def write_rows(self, name: str, start: int, rows: Tensor) -> None:
        """Replace the rows from `start` on by `rows`, of any device, in the dtype of `layout`.

        Threads may call this at the same time for different rows.
        """
        self.tensors()[name][start : start + len(rows)].copy_(rows)

    def state_rows(self) -> dict[str, "TableRows"]:
        """Return weight and state by name, to be read and written a part at a time."""
        return {name: TableRows(self, name, *self.layout()[name]) for name in self.layout()}

    def rows_of(self, row_N: Tensor) -> Tensor:
        """Return the weight of single rows, int64 [N], on `device`: float32 [N, D]."""
        stored = [getattr(self, name).index_select(0, row_N) for name in self.weight_names]
        weight_ND = decode(*stored)
        missed = None if self.motion is None else self.motion.missed(row_N)
        if missed is not None:
            names = stored_names("momentum", self.tensors()["momentum"].dtype)
            kept = [getattr(self, name).index_select(0, row_N) for name in names]
            missed.apply(weight_ND, decode(*kept))
        return weight_ND

    def prepare(self, rows: RowSet) -> None:
        """Make sure that passes over `rows` see them as they are now."""
        if self.motion is not None:
            self.motion.prepare(rows)

    def centres(self, start: int, stop: int) -> Tensor:
        """Return the weight of rows `[start, stop)`: float32, a copy unless it is kept so."""
        return decode(*(self.read_rows(name, start, stop) for name in self.weight_names))

    def write_centres(self, start: int, centre_RD: Tensor, noise: RowNoise) -> None:
        """Replace the weight of the rows from `start` on by float32 rows, which are overwritten.

        `noise` is that of these rows.
        """
        if self.layout()["weight"][1] not in ROUNDED:
            self.write_rows("weight", start, centre_RD)
            return
        stop, scale_R1 = start + len(centre_RD), None
        if len(self.weight_names) > 1:
            scale_R1 = getattr(self, self.weight_names[1])[start:stop]
        scratch = torch.empty_like(centre_RD)
        encode(centre_RD, noise.of("weight"), self.weight[start:stop], scale_R1, scratch)

    def stage(self, rows: RowSet) -> None:
        """Send `rows` ahead of the passes over them; call it after `prepare`."""

    def release(self) -> None:
        """Drop the staged rows."""

    def iter_blocks(
        self, rows: RowSet, bounds: Bounds, space: Workspace, *, with_state: bool = False
    ) -> Iterator[Block]:
        """Yield the blocks of a row set within `bounds`, copies of rows in `space`.

        Whoever changes a block calls its `write` before taking the next one.
        """
        motion = self.motion
        with_state = with_state or motion is not None  # a momentum moves its weight
        for block in self.local_blocks(rows, bounds, space, with_state=with_state):
            if motion is not None:
                block.missed = motion.missed(block.rows_of_table())
            yield block

    def local_blocks(
        self, rows: RowSet, bounds: Bounds, space: Workspace, *, with_state: bool = True
    ) -> Iterator[Block]:
        """Yield the blocks of a row set as they are kept, on the device where the table is."""
        tensors = self.tensors()
        if not with_state:
            tensors = {name: tensors[name] for name in self.weight_names}
        low = self.lower_half
        for start, stop in bounds:
            if rows.index is None:
                views = {name: tensor[start:stop] for name, tensor in tensors.items()}
                low_RD = None if low is None else low[start:stop]
                yield Block(rows, start, stop, views, None, space, low_RD)
            else:
                yield Block(rows, start, stop, tensors, rows.index[start:stop], space, low)

    def finish(self) -> None:
        """Wait until all that was written is in the table."""


@dataclass(frozen=True)
class TableRows:
    """All rows of one of a table's tensors, without a tensor of them all."""

    table: Table
    name: str
    shape: torch.Size  # [L, ...]
    dtype: torch.dtype

    def read(self, start: int, stop: int) -> Tensor:
        """Return rows `[start, stop)`; see `Table.read_rows`."""
        return self.table.read_rows(self.name, start, stop)

    def write(self, start: int, rows: Tensor) -> None:
        """Replace the rows from `start` on by `rows`; see `Table.write_rows`."""
        self.table.write_rows(self.name, start, rows)
