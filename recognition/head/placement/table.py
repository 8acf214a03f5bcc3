"""Where the class centres and their optimizer state live, and how blocks of rows get about.

Shapes: L classes of this rank, R of one block, D numbers of a class: its K centres of d each.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from torch import nn

from recognition.head.kernels.block import Block
from recognition.head.kernels.workspace import Workspace
from recognition.head.rows import RowRange, RowSet


class Table(nn.Module):
    """Class centres and optimizer state beside the arithmetic, on one device.

    Args:
        weight: float32 [L, D].
        state: the optimizer's tensors by name, each [L, ...].
    """

    weight: torch.Tensor

    def __init__(self, weight: torch.Tensor, state: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.state_names = tuple(state)
        for name, tensor in state.items():
            self.register_buffer(name, tensor)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return weight and state by name: the tensors themselves."""
        return {name: self._of(name) for name in ("weight", *self.state_names)}

    def rows_of(self, row_N: torch.Tensor) -> torch.Tensor:
        """Return the weight of single rows, int64 [N]: float32 [N, D]."""
        return self.weight.index_select(0, row_N)

    def stage(self, rows: RowSet) -> None:
        """Tell which rows the coming passes want; a table beside the arithmetic has no need."""

    def release(self) -> None:
        """Tell that the passes over the staged rows are over."""

    def iter_blocks(
        self, part: RowRange, space: Workspace, *, with_state: bool = False
    ) -> Iterator[Block]:
        """Yield a part of a set of rows block by block, copies of rows in `space`.

        Whoever changes a block calls its `write` before taking the next one. Threads may take
        different parts at the same time.
        """
        tensors, index = self.tensors() if with_state else {"weight": self.weight}, part.rows.index
        for start, stop in part.blocks():
            if index is None:
                rows = {name: tensor[start:stop] for name, tensor in tensors.items()}
                yield Block(part.rows, start, stop, rows, None, space)
            else:
                yield Block(part.rows, start, stop, tensors, index[start:stop], space)

    def finish(self) -> None:
        """Wait until all that was written is in the table."""

    def _of(self, name: str) -> torch.Tensor:
        tensor = getattr(self, name)
        assert isinstance(tensor, torch.Tensor)
        return tensor


@dataclass
class _HostBlock(Block):
    """A block that has travelled to the device, and travels back when it is written."""

    send: Callable[[Block], None] = field(kw_only=True)

    def write(self) -> None:
        """Send the rows back."""
        self.send(self)


_Staged = tuple[RowSet, int, Future[torch.Tensor]]
"""A set, how many of its rows are on their way to the device, and those."""


class HostTable(Table):
    """Class centres and optimizer state in CPU memory, the arithmetic on another device.

    Only the rows of one block travel at a time, the next block while one is computed, so the
    device holds two blocks and what is staged. One background thread gathers rows into pinned
    memory, sends them, and puts changed rows back; no two of its tasks ever touch the same row
    out of order, because it does them one by one and a step's passes do not overlap.

    Args:
        weight: float32 [L, D], on the CPU.
        state: the optimizer's tensors by name, each [L, ...], on the CPU.
        device: where blocks are computed.
        stage_bytes: device memory for rows that are sent ahead of the pass that wants them.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        state: dict[str, torch.Tensor],
        *,
        device: torch.device,
        stage_bytes: int,
    ) -> None:
        pin = device.type == "cuda"
        super().__init__(
            weight.pin_memory() if pin else weight,
            {name: tensor.pin_memory() if pin else tensor for name, tensor in state.items()},
        )
        self.device = device
        self.stage_bytes = stage_bytes
        self._stream = torch.cuda.Stream(device) if pin else None  # type: ignore[no-untyped-call]
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="host-table")
        self._pending: list[Future[None]] = []
        self._staged: _Staged | None = None

    def _apply(self, fn: object, recurse: bool = True) -> "HostTable":
        """Stay in CPU memory, whatever the module around it is moved to."""
        return self

    def rows_of(self, row_N: torch.Tensor) -> torch.Tensor:
        """Return the weight of single rows, int64 [N], on the computing device: float32 [N, D]."""
        self.finish()
        return self.weight.index_select(0, row_N.cpu()).to(self.device)

    def stage(self, rows: RowSet) -> None:
        """Begin to send the rows' weight, as far as `stage_bytes` goes, in the background.

        Call it once the table's last update is made: staged rows are copies.
        """
        self.finish()
        count = min(rows.count, self.stage_bytes // max(self.weight[:1].nbytes, 1))
        future = self._thread.submit(self._send, self.weight, self._host(rows), 0, count)
        self._staged = (rows, count, future)

    def release(self) -> None:
        """Drop the staged rows, which are copies of what was before an update."""
        self._staged = None

    def iter_blocks(
        self, part: RowRange, space: Workspace, *, with_state: bool = False
    ) -> Iterator[Block]:
        """Yield a part of a set of rows block by block, one sent ahead; one part at a time."""
        names, rows = self.state_names if with_state else (), part.rows
        cuts = list(part.blocks())
        host = self._host(rows)
        staged = self._staged if self._staged is not None and self._staged[0] is rows else None
        futures = self._fetch(host, cuts[0], names, staged) if cuts else {}
        for number, (start, stop) in enumerate(cuts):
            last = number + 1 == len(cuts)
            following = {} if last else self._fetch(host, cuts[number + 1], names, staged)
            arrived = {name: self._arrived(future) for name, future in futures.items()}
            yield _HostBlock(part.rows, start, stop, arrived, None, space, send=self._send_back)
            futures = following
        self.finish()

    def _send_back(self, block: Block) -> None:
        """Send a changed block back, in the background."""
        ready = torch.cuda.Event() if self._stream is not None else None  # type: ignore[no-untyped-call]
        if ready is not None:
            ready.record()
        host = self._host(block.rows)
        for name, tensor in block.tensors.items():
            table = self._of(name)
            self._pending.append(
                self._thread.submit(
                    self._receive, table, host, block.start, block.stop, tensor, ready
                )
            )

    def finish(self) -> None:
        """Wait until all that was written is in the table; raise what failed on the way."""
        pending, self._pending = self._pending, []
        for future in pending:
            future.result()

    def _fetch(
        self, host: RowSet, cut: tuple[int, int], names: Sequence[str], staged: "_Staged | None"
    ) -> dict[str, Future[torch.Tensor]]:
        """Begin to send a block; its weight is there already if it was staged."""
        start, stop = cut
        futures = {
            name: self._thread.submit(self._send, self._of(name), host, start, stop)
            for name in names
        }
        if staged is None or stop > staged[1]:
            weight = self._thread.submit(self._send, self.weight, host, start, stop)
        else:
            weight = self._thread.submit(lambda: staged[2].result()[start:stop])
        return {"weight": weight, **futures}

    def _host(self, rows: RowSet) -> RowSet:
        if rows.index is None or rows.index.device.type == "cpu":
            return rows
        return RowSet(rows.count, rows.index.cpu())

    def _send(self, table: torch.Tensor, rows: RowSet, start: int, stop: int) -> torch.Tensor:
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
        # The host waits here, on its own thread: what is handed on has arrived.
        self._stream.synchronize()
        return sent

    def _receive(
        self,
        table: torch.Tensor,
        rows: RowSet,
        start: int,
        stop: int,
        tensor: torch.Tensor,
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

    def _arrived(self, future: Future[torch.Tensor]) -> torch.Tensor:
        tensor = future.result()
        if self._stream is not None:
            tensor.record_stream(torch.cuda.current_stream(self.device))
        return tensor


@dataclass(frozen=True)
class TableReader:
    """A whole table, block by block, for the sampling rules that look at centres.

    Attributes:
        table: this rank's.
        embedding_size: d.
    """

    table: Table
    embedding_size: int

    @property
    def rows(self) -> int:
        """L, classes in the table."""
        return self.table.weight.shape[0]

    def blocks(self, size: int) -> Iterator[tuple[int, int, torch.Tensor]]:
        """Yield `(start, stop, centres)`, the last float32 [R, K, d] on the computing device.

        They may be the table itself: to be read, not to be changed, until the next block.
        """
        whole = RowRange(RowSet(self.rows), 0, self.rows, size)
        for block in self.table.iter_blocks(whole, Workspace()):
            weight = block.read("weight")
            yield block.start, block.stop, weight.view(len(weight), -1, self.embedding_size)
