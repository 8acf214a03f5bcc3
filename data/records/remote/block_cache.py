"""A bounded cache over a remote object: whole blocks for what is read in order, runs for the rest.

A *block* is one of the pieces of `block_bytes` that the object is cut into; blocks stay until
others need the place. A *run* is the span of a few neighbouring records that were announced; it
goes when they have been read. Both are fetched at most once at a time, whoever asks.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field

from data.records.remote.ranges import AHEAD_BYTES, RemoteObject, Span


@dataclass(eq=False)
class _Extent:
    """A fetched span; `waiting` holds the starts of a run's records that were not read yet."""

    start: int
    stop: int
    data: Future[bytes]
    waiting: set[int] = field(default_factory=set)


class BlockCache:
    """Blocks and runs of `source`, the least recently used dropped first. Safe among threads.

    Args:
        source: what is read.
        block_bytes: size of a block, and at most that of a run of several records.
        cache_bytes: bound of all that is held or on its way, at least two blocks.

    Attributes:
        held_bytes: of blocks and runs held now, those on their way included.

    Raises `ValueError` for a bound of less than two blocks.
    """

    def __init__(self, source: RemoteObject, *, block_bytes: int, cache_bytes: int) -> None:
        if not 0 < 2 * block_bytes <= cache_bytes:
            raise ValueError(
                f"block_bytes is {block_bytes} and cache_bytes {cache_bytes}: expected room for "
                "two blocks or more"
            )
        self.source = source
        self.block_bytes = block_bytes
        self.cache_bytes = cache_bytes
        self.held_bytes = 0
        self._extents: OrderedDict[Span, _Extent] = OrderedDict()  # the last used is the last
        self._run_of: dict[int, _Extent] = {}  # by the start of each record that waits in one
        self._lock = threading.Lock()

    def fetch_blocks(self, blocks: Iterable[int]) -> None:
        """Start to fetch blocks by number, as many as the bound lets in, and return at once."""
        with self._lock:
            for number in list(dict.fromkeys(blocks))[: self.cache_bytes // self.block_bytes]:
                if 0 <= number * self.block_bytes < self.source.size:
                    self._block(number)

    def fetch_runs(self, runs: Iterable[tuple[Span, list[int]]]) -> None:
        """Start to fetch spans with the starts of the records in each, and return at once.

        What the bound does not let in beside the others of this call is left to the reader.
        """
        room = self.cache_bytes
        with self._lock:
            for (start, stop), records in runs:
                room -= stop - start
                if room < 0:
                    return
                new = [record for record in records if record not in self._run_of]
                if new and (start, stop) not in self._extents:
                    extent = self._add(start, stop)
                    extent.waiting.update(new)
                    self._run_of.update(dict.fromkeys(new, extent))

    def waits(self, start: int) -> bool:
        """Return whether the record at `start` is in a run."""
        return start in self._run_of

    def holds(self, start: int, stop: int) -> bool:
        """Return whether all blocks of the span `[start, stop)` are held or on their way."""
        first, last = start // self.block_bytes, (stop - 1) // self.block_bytes
        return all(self._span(number) in self._extents for number in range(first, last + 1))

    def take(self, start: int, stop: int) -> memoryview | None:
        """Return the bytes `[start, stop)` of a record that is in a run; None if it is in none."""
        with self._lock:
            extent = self._run_of.pop(start, None)
            if extent is None:
                return None
            extent.waiting.discard(start)
            if not extent.waiting:
                self._drop(extent)
        if stop > extent.stop:
            return None
        return memoryview(self._result(extent))[start - extent.start : stop - extent.start]

    def read(self, start: int, stop: int, *, ahead: bool = False) -> memoryview:
        """Return the bytes `[start, stop)` out of blocks; a copy only where there are several.

        `ahead` starts to fetch the blocks that follow.
        """
        first, last = start // self.block_bytes, max(stop - 1, start) // self.block_bytes
        with self._lock:
            extents = [self._block(number) for number in range(first, last + 1)]
        if ahead:
            # No more than half of the cache: what was read last may be read again.
            most = max(1, min(AHEAD_BYTES, self.cache_bytes // 2) // self.block_bytes)
            self.fetch_blocks(range(last + 1, last + 1 + most))
        parts = [
            memoryview(self._result(extent))[
                max(start - extent.start, 0) : max(stop - extent.start, 0)
            ]
            for extent in extents
        ]
        return parts[0] if len(parts) == 1 else memoryview(b"".join(parts))

    def _span(self, number: int) -> Span:
        start = number * self.block_bytes
        return start, min(start + self.block_bytes, self.source.size)

    def _block(self, number: int) -> _Extent:
        span = self._span(number)
        if span in self._extents:
            self._extents.move_to_end(span)
            return self._extents[span]
        return self._add(*span)

    def _add(self, start: int, stop: int) -> _Extent:
        extent = _Extent(start, stop, self.source.fetch(start, stop))
        self._extents[start, stop] = extent
        self.held_bytes += stop - start
        while self.held_bytes > self.cache_bytes and len(self._extents) > 1:
            self._drop(next(iter(self._extents.values())))
        return extent

    def _drop(self, extent: _Extent) -> None:
        if self._extents.get((extent.start, extent.stop)) is extent:
            del self._extents[extent.start, extent.stop]
            self.held_bytes -= extent.stop - extent.start
            for record in extent.waiting:
                del self._run_of[record]

    def _result(self, extent: _Extent) -> bytes:
        try:
            return extent.data.result()
        except BaseException:
            with self._lock:
                self._drop(extent)  # whoever asks again starts anew
            raise
