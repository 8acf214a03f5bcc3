"""Class centres in CPU memory, whose blocks of rows are sent to the device that computes.

Shapes: L classes of this rank, N samples, D numbers per class: its K centres of d each.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import cycle, islice
from threading import Lock

import torch
from torch import Tensor

from recognition.head.kernels.block import Block
from recognition.head.kernels.workspace import Workspace
from recognition.head.optim.rounding import RowNoise
from recognition.head.optim.storage import decode
from recognition.head.placement.table import Table
from recognition.head.placement.transfer import PART_BYTES, HostRows, Transfer
from recognition.head.rows import Bounds, RowSet

_SLOTS = 3  # of blocks on the device: one is computed while another arrives and a third leaves
_STAGE_STEPS = 8  # sizes of staged memory: the number of rows varies a little from step to step


@dataclass
class _Slot:
    """Memory on the device for the rows of one block, used again and again."""

    space: Workspace = field(default_factory=Workspace)
    returning: list[Future[None]] = field(default_factory=list)  # rows that leave it

    def take(self, name: str, table: Tensor, rows: int, device: torch.device) -> Tensor:
        """Return memory for so many rows of a table."""
        return self.space.take(name, (rows, *table.shape[1:]), table.dtype, device)


@dataclass
class _HostBlock(Block):
    """A block that was sent to the device, and is sent back when it is written."""

    send_back: Callable[[Block], None] = field(kw_only=True)

    def write(self, noise: RowNoise | None = None) -> None:
        """Begin to send the rows back, in the form that is kept."""
        super().write(noise)
        self.send_back(self)


@dataclass(frozen=True)
class _Sent:
    """Rows on their way to the device, and the slot that a block of them takes, if any."""

    tensors: dict[str, Tensor]
    arriving: list[Future[None]]
    slot: _Slot | None = None

    def arrive(self) -> None:
        """Wait until they are there; raise what failed on the way."""
        for future in self.arriving:
            future.result()


@dataclass(frozen=True)
class _Staged:
    """The weight of the first rows of a set, sent ahead of the pass that needs it."""

    rows: RowSet
    count: int
    sent: _Sent

    def part(self, start: int, stop: int) -> _Sent:
        """Return the rows at positions `[start, stop)`."""
        parts = {name: rows[start:stop] for name, rows in self.sent.tensors.items()}
        return replace(self.sent, tensors=parts)


class HostTable(Table):
    """Class centres and optimizer state in CPU memory, computed on another device.

    The table stays in ordinary memory; rows go through four pinned buffers, two per direction
    (`transfer`). While one block is computed, the next one is gathered and sent, and the last one
    returns. The device holds three blocks and what is staged. A pass begins when all that earlier
    ones wrote is in the table, so no row is read before its last change.

    Args:
        weight: as `Table`'s, and on the CPU.
        state: likewise.
        device: where blocks are computed.
        stage_bytes: device memory for rows that are sent ahead of the pass that needs them.
        buffer_bytes: of each of the four buffers, at most.
    """

    stages = True

    def __init__(
        self,
        weight: Tensor,
        state: dict[str, Tensor],
        *,
        device: torch.device,
        stage_bytes: int,
        buffer_bytes: int = PART_BYTES,
    ) -> None:
        super().__init__(weight, state)
        self._computes_on = device
        tables = self.tensors().values()
        row_bytes = sum(getattr(self, name)[:1].nbytes for name in self.weight_names)
        self._most_staged = min(len(weight), stage_bytes // max(row_bytes, 1))
        buffer_bytes = min(buffer_bytes, max(table.nbytes for table in tables))
        buffer_bytes = max(buffer_bytes, *(table[:1].nbytes for table in tables))
        cores = Lock()
        self._to_device = Transfer(device, buffer_bytes, cores)
        self._from_device = Transfer(device, buffer_bytes, cores)
        self._slots = [_Slot() for _ in range(_SLOTS)]
        self._stage_slot = _Slot()
        self._staged: _Staged | None = None
        self._writing: list[Future[None]] = []

    @property
    def device(self) -> torch.device:
        """Where blocks are computed."""
        return self._computes_on

    def _apply(self, fn: object, recurse: bool = True) -> "HostTable":
        """Stay in CPU memory, whatever the module around it is moved to."""
        return self

    def rows_of(self, row_N: Tensor) -> Tensor:
        """Return the weight of single rows, int64 [N], on `device`: float32 [N, D]."""
        self.finish()
        row_N = row_N.cpu()
        parts = [getattr(self, name).index_select(0, row_N) for name in self.weight_names]
        return decode(*(part.to(self.device) for part in parts))

    def stage(self, rows: RowSet) -> None:
        """Begin to send the rows' weight, up to `stage_bytes`, in the background.

        Call it after `finish`, once the table's last update is made: staged rows are copies. A
        thread other than the passes' may call it.
        """
        self.release()
        count, step = min(rows.count, self._most_staged), max(1, self._most_staged // _STAGE_STEPS)
        sent, memory_rows = _Sent({}, []), -(-count // step) * step
        for name in self.weight_names:
            table = getattr(self, name)
            memory_Rd = self._stage_slot.take(name, table, memory_rows, self.device)[:count]
            part = HostRows(table, rows.host_index, 0, count)
            sent.arriving.extend(self._to_device.send(part, memory_Rd, self._record_event()))
            sent.tensors[name] = memory_Rd
        self._staged = _Staged(rows, count, sent)

    def release(self) -> None:
        """Drop the staged rows, which are copies from before an update."""
        staged, self._staged = self._staged, None
        if staged is not None:
            wait([future for future in staged.sent.arriving if not future.cancel()])

    def iter_blocks(
        self, rows: RowSet, bounds: Bounds, space: Workspace, *, with_state: bool = False
    ) -> Iterator[Block]:
        """Yield the blocks of a row set within `bounds`, the next ones sent ahead."""
        self.finish()
        index, staged = rows.host_index, self._staged
        if staged is not None and staged.rows is not rows:
            staged = None
        tables = self.tensors()
        if not with_state:
            tables = {name: tables[name] for name in self.weight_names}
        whole = 0  # blocks of which nothing need be sent
        if staged is not None and not with_state:
            whole = sum(stop <= staged.count for _, stop in bounds)
        largest = max((stop - start for start, stop in bounds), default=0)
        sends = (
            self._send(slot, tables, index, bound, largest, staged)
            for slot, bound in zip(cycle(self._slots), bounds[whole:], strict=False)
        )
        ahead, sent = deque(islice(sends, _SLOTS - 1)), _Sent({}, [])
        try:
            for number, (start, stop) in enumerate(bounds):
                if staged is not None and number < whole:
                    sent = staged.part(start, stop)
                else:
                    sent = ahead.popleft()
                    # Into the slot of the block before, with which the caller is done.
                    ahead.extend(islice(sends, 1))
                sent.arrive()
                send_back = partial(self._send_back, index, sent.slot)
                yield _HostBlock(rows, start, stop, sent.tensors, None, space, send_back=send_back)
            self.finish()
        finally:
            # After a failure too, no slot may be written while the next pass takes it.
            wait([future for each in (sent, *ahead) for future in each.arriving])

    def finish(self) -> None:
        """Wait until all that was written is in the table; raise what failed on the way."""
        writing, self._writing = self._writing, []
        wait(writing)
        for future in writing:
            future.result()

    def _send(
        self,
        slot: _Slot,
        tables: dict[str, Tensor],
        index: Tensor | None,
        bound: tuple[int, int],
        most: int,
        staged: _Staged | None,
    ) -> _Sent:
        """Begin to send a block, without what is staged, to a slot for blocks of `most` rows."""
        (start, stop), free, returning = bound, self._record_event(), slot.returning
        slot.returning = []
        sent = _Sent({}, [], slot)
        for name, table in tables.items():
            if staged is not None and name in staged.sent.tensors and stop <= staged.count:
                sent.tensors[name] = staged.sent.tensors[name][start:stop]
                sent.arriving.extend(staged.sent.arriving)
            else:
                rows_R = slot.take(name, table, most, self.device)[: stop - start]
                of_table = HostRows(table, index, start, stop)
                sent.tensors[name] = rows_R
                sent.arriving.extend(self._to_device.send(of_table, rows_R, free, returning))
        return sent

    def _send_back(self, index: Tensor | None, slot: _Slot | None, block: Block) -> None:
        """Begin to copy a block's rows into the tables."""
        ready = self._record_event()
        for name, rows in block.tensors.items():
            to = HostRows(getattr(self, name), index, block.start, block.stop)
            futures = self._from_device.receive(to, rows, ready)
            self._writing.extend(futures)
            if slot is not None:
                slot.returning.extend(futures)

    def _record_event(self) -> torch.cuda.Event | None:
        """Return an event that happens when the device has done what it was given so far."""
        if self.device.type != "cuda":
            return None
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self.device))
        return event
