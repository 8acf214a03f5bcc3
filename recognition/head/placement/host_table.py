"""Class centres in CPU memory, whose blocks of rows are sent to the device that computes.

Shapes: L classes of this rank, N samples, D numbers per class: its K centres of d each.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from torch import Tensor

from recognition.head.kernels.block import Block
from recognition.head.kernels.workspace import Workspace
from recognition.head.placement.table import Table
from recognition.head.rows import Bounds, RowSet


@dataclass
class _HostBlock(Block):
    """A block that was sent to the device, and is sent back when it is written."""

    send_back: Callable[[Block], None] = field(kw_only=True)

    def write(self) -> None:
        """Begin to send the rows back."""
        self.send_back(self)


@dataclass(frozen=True)
class _Staged:
    """The first `count` rows of a set, on their way to the device."""

    rows: RowSet
    count: int
    weight: Future[Tensor]

    def part(self, start: int, stop: int) -> Tensor:
        """Return the rows at positions `[start, stop)`, once they have arrived."""
        return self.weight.result()[start:stop]


class HostTable(Table):
    """Class centres and optimizer state in CPU memory, computed on another device.

    The rows of one block are sent at a time, the next block while one is computed, so the
    device holds two blocks and what is staged. One background thread gathers rows into pinned
    memory, sends them, and puts changed rows back. It does its tasks one by one, and a step's
    passes do not overlap, so no row is read before an earlier change of it is in the table.

    Args:
        weight: as `Table`'s, and on the CPU.
        state: likewise.
        device: where blocks are computed.
        stage_bytes: device memory for rows that are sent ahead of the pass that needs them.
    """

    parallel = False
    stages = True

    def __init__(
        self, weight: Tensor, state: dict[str, Tensor], *, device: torch.device, stage_bytes: int
    ) -> None:
        pin = device.type == "cuda"
        super().__init__(
            weight.pin_memory() if pin else weight,
            {name: tensor.pin_memory() if pin else tensor for name, tensor in state.items()},
        )
        self._computes_on = device
        self._stage_bytes = stage_bytes
        self._stream = torch.cuda.Stream(device) if pin else None  # type: ignore[no-untyped-call]
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="host-table")
        self._pending: list[Future[None]] = []
        self._staged: _Staged | None = None

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
        return self.weight.index_select(0, row_N.cpu()).to(self.device)

    def stage(self, rows: RowSet) -> None:
        """Begin to send the rows' weight, up to `stage_bytes`, in the background.

        Call it once the table's last update is made: staged rows are copies.
        """
        self.finish()
        count = min(rows.count, self._stage_bytes // max(self.weight[:1].nbytes, 1))
        weight = self._thread.submit(self._send, self.weight, _on_host(rows), 0, count)
        self._staged = _Staged(rows, count, weight)

    def release(self) -> None:
        """Drop the staged rows, which are copies from before an update."""
        self._staged = None

    def iter_blocks(
        self, rows: RowSet, bounds: Bounds, space: Workspace, *, with_state: bool = False
    ) -> Iterator[Block]:
        """Yield the blocks of a row set within `bounds`, the next one sent ahead."""
        names = ("weight", *self.state_names) if with_state else ("weight",)
        host, staged = _on_host(rows), self._staged
        if staged is not None and staged.rows is not rows:
            staged = None

        def fetch(name: str, start: int, stop: int) -> Future[Tensor]:
            if name == "weight" and staged is not None and stop <= staged.count:
                return self._thread.submit(staged.part, start, stop)
            return self._thread.submit(self._send, getattr(self, name), host, start, stop)

        def send_back(block: Block) -> None:
            ready = self._record_event()
            for name, tensor in block.tensors.items():
                arguments = getattr(self, name), host, block.start, block.stop, tensor, ready
                self._pending.append(self._thread.submit(self._receive, *arguments))

        fetches = ({name: fetch(name, *block) for name in names} for block in bounds)
        following = next(fetches, {})
        for start, stop in bounds:
            sent, following = following, next(fetches, {})
            tensors = {name: self._arrived(future) for name, future in sent.items()}
            yield _HostBlock(rows, start, stop, tensors, None, space, send_back=send_back)
        self.finish()

    def finish(self) -> None:
        """Wait until all that was written is in the table; raise what failed on the way."""
        pending, self._pending = self._pending, []
        for future in pending:
            future.result()

    def _record_event(self) -> torch.cuda.Event | None:
        """Return an event after which what was computed so far may be copied."""
        if self._stream is None:
            return None
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        return event

    def _send(self, table: Tensor, rows: RowSet, start: int, stop: int) -> Tensor:
        """Copy rows to the device; runs on the thread."""
        shape = (stop - start, *table.shape[1:])
        staging = torch.empty(shape, dtype=table.dtype, pin_memory=self._stream is not None)
        if rows.index is None:
            staging.copy_(table[start:stop])
        else:
            torch.index_select(table, 0, rows.index[start:stop], out=staging)
        if self._stream is None:
            return staging.to(self.device)
        with torch.cuda.stream(self._stream):
            sent = staging.to(self.device, non_blocking=True)
        # The host waits here, on its own thread: what is returned has arrived.
        self._stream.synchronize()
        return sent

    def _receive(
        self,
        table: Tensor,
        rows: RowSet,
        start: int,
        stop: int,
        tensor: Tensor,
        ready: torch.cuda.Event | None,
    ) -> None:
        """Copy rows from the device into the table; runs on the thread."""
        if self._stream is not None and ready is not None:
            with torch.cuda.stream(self._stream):
                self._stream.wait_event(ready)
                tensor.record_stream(self._stream)
                received = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
                received.copy_(tensor, non_blocking=True)
            self._stream.synchronize()
            tensor = received
        if rows.index is None:
            table[start:stop] = tensor.cpu()
        else:
            table.index_copy_(0, rows.index[start:stop], tensor.cpu())

    def _arrived(self, future: Future[Tensor]) -> Tensor:
        tensor = future.result()
        if self._stream is not None:
            tensor.record_stream(torch.cuda.current_stream(self.device))
        return tensor


def _on_host(rows: RowSet) -> RowSet:
    if rows.index is None or rows.index.device.type == "cpu":
        return rows
    return RowSet(rows.count, rows.index.cpu())
