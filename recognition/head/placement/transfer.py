"""Copies of rows between tables in CPU memory and a device, in parts, through pinned buffers.

Shapes: L rows of a table, R rows of a block.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Lock

import torch
from torch import Tensor

# Bytes of one part. Parts that stay in a CPU's cache between gathering and copying are faster: on
# two cores, gathering rows of 2 KiB into buffers of 4, 16, 32 and 64 MiB took 7.9, 6.8, 5.9 and 4.1
# million rows/s. A GPU should copy 16 MiB in some 0.3 ms (an estimate), enough to hide a launch.
PART_BYTES = 16 << 20
_THREADS = 2  # of a direction: one gathers or scatters while the other's copy is under way


@dataclass(frozen=True)
class HostRows:
    """Some rows of a table in CPU memory."""

    table: Tensor  # [L, ...], on the CPU
    index: Tensor | None  # int64 [A], on the CPU, of the row set; None for all rows
    start: int  # position in the set of the first row
    stop: int  # and one past the last one

    def parts(self, most_bytes: int) -> list[tuple[int, "HostRows"]]:
        """Return parts of at most so many bytes, or of one row; each with its first block row."""
        size = max(1, most_bytes // max(1, self.table[:1].nbytes))
        firsts = range(self.start, self.stop, size)
        return [
            (
                first - self.start,
                HostRows(self.table, self.index, first, min(first + size, self.stop)),
            )
            for first in firsts
        ]

    def gather(self, out: Tensor) -> None:
        """Copy the rows to `out`, [R, ...], on all of torch's threads."""
        if self.index is None:
            out.copy_(self.table[self.start : self.stop])
        else:
            torch.index_select(self.table, 0, self.index[self.start : self.stop], out=out)

    def scatter(self, rows: Tensor) -> None:
        """Copy `rows`, [R, ...] on the CPU, into the table, on all of torch's threads."""
        if self.index is None:
            self.table[self.start : self.stop] = rows
        else:
            self.table.index_copy_(0, self.index[self.start : self.stop], rows)


class Transfer:
    """Copies between CPU memory and a device, in one direction.

    Each of two threads has a buffer, pinned where the device is a GPU, and a stream. A future that
    is done means that its rows have arrived: whoever uses them need not wait for a stream.

    Args:
        device: of the rows that are not in CPU memory.
        buffer_bytes: of each buffer, at least one row of every table.
        cores: held by whoever gathers or scatters, as each does so on all cores.
    """

    def __init__(self, device: torch.device, buffer_bytes: int, cores: Lock) -> None:
        self._cores, self._buffer_bytes = cores, buffer_bytes
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="host-table")
        self._lanes: SimpleQueue[_Lane] = SimpleQueue()
        for _ in range(_THREADS):
            self._lanes.put(_Lane(device, buffer_bytes))

    def send(
        self,
        rows: HostRows,
        to_Rd: Tensor,
        free: torch.cuda.Event | None,
        returning: Sequence[Future[None]] = (),
    ) -> list[Future[None]]:
        """Begin to copy rows to `to_Rd` on the device.

        Not before `free` has happened there, and what is `returning` from that memory is done.
        """

        def send(part: HostRows, to: Tensor) -> None:
            for future in returning:
                future.result()
            lane = self._lanes.get()
            try:
                buffer = lane.like(to)
                with self._cores:
                    part.gather(buffer)
                lane.copy(buffer, to, free)
            finally:
                self._lanes.put(lane)

        return self._submit(send, rows, to_Rd)

    def receive(
        self, rows: HostRows, from_Rd: Tensor, ready: torch.cuda.Event | None
    ) -> list[Future[None]]:
        """Begin to copy rows on the device into the table, once `ready` has happened there."""

        def receive(part: HostRows, source: Tensor) -> None:
            lane = self._lanes.get()
            try:
                buffer = lane.like(source)
                lane.copy(source, buffer, ready)
                with self._cores:
                    part.scatter(buffer)
            finally:
                self._lanes.put(lane)

        return self._submit(receive, rows, from_Rd)

    def _submit(
        self, function: Callable[[HostRows, Tensor], None], rows: HostRows, on_device: Tensor
    ) -> list[Future[None]]:
        return [
            self._pool.submit(function, part, on_device[first : first + part.stop - part.start])
            for first, part in rows.parts(self._buffer_bytes)
        ]


class _Lane:
    """What one copy at a time needs."""

    def __init__(self, device: torch.device, buffer_bytes: int) -> None:
        on_gpu = device.type == "cuda"
        self._buffer = torch.empty(buffer_bytes, dtype=torch.uint8, pin_memory=on_gpu)
        self._stream = torch.cuda.Stream(device) if on_gpu else None  # type: ignore[no-untyped-call]
        # A thread that waits must not occupy a core: the other one needs it.
        self._copied = torch.cuda.Event(blocking=True) if on_gpu else None  # type: ignore[no-untyped-call]

    def like(self, rows: Tensor) -> Tensor:
        """Return the buffer's first bytes as rows of the same shape and dtype."""
        return self._buffer[: rows.nbytes].view(rows.dtype).view(rows.shape)

    def copy(self, source: Tensor, target: Tensor, after: torch.cuda.Event | None) -> None:
        """Copy from memory that is ready `after` an event, or to memory that is free then; wait."""
        if self._stream is None or self._copied is None:
            target.copy_(source)
            return
        with torch.cuda.stream(self._stream):
            if after is not None:
                self._stream.wait_event(after)
            target.copy_(source, non_blocking=True)
            self._copied.record(self._stream)
        self._copied.synchronize()
