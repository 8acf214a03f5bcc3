"""A bounded cache in memory of ranges of a remote object that are fetched or on their way.

It holds *blocks*, the pieces of `block_bytes` of the object, which stay until others need the
space, and *runs*, the ranges of a few neighbouring records that were announced, which are dropped
when all of those have been read.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from data.records.format import ByteRange
from data.records.remote.ranges import AHEAD_BYTES, RemoteObject


@dataclass(eq=False)
class _Range:
    """A fetched range; `waiting` holds the offsets of a run's records that were not read yet."""

    start: int
    stop: int
    data: Future[bytes]
    waiting: set[int] = field(default_factory=set)


class RangeCache:
    """Blocks and runs of `source`; the least recently used are dropped first. Thread-safe.

    `cache_bytes` limits everything held or on its way; raises `ValueError` below two blocks.
    """

    def __init__(self, source: RemoteObject, *, block_bytes: int, cache_bytes: int) -> None:
        if not 0 < 2 * block_bytes <= cache_bytes:
            raise ValueError(
                f"block_bytes is {block_bytes} and cache_bytes {cache_bytes}: expected room for "
                "two blocks or more"
            )
        self.source, self.block_bytes, self.cache_bytes = source, block_bytes, cache_bytes
        self.held_bytes = 0  # of all blocks and runs, those on their way included
        self._ranges: OrderedDict[ByteRange, _Range] = OrderedDict()  # least recently used first
        self._run_of: dict[int, _Range] = {}  # by the offset of each record that was not read yet
        self._lock = threading.Lock()

    def fetch_blocks(self, blocks: Sequence[ByteRange]) -> None:
        """Start to fetch blocks, as many as fit into the cache, and return at once."""
        with self._lock:
            for block in blocks[: self.cache_bytes // self.block_bytes]:
                self._add(*block)

    def fetch_runs(self, runs: Iterable[tuple[ByteRange, list[int]]]) -> None:
        """Start to fetch runs, as many as fit into the cache, and return at once.

        Each comes with the offsets of its records. A record already in another run stays in that.
        """
        room = self.cache_bytes
        with self._lock:
            for (start, stop), records in runs:
                room -= stop - start
                new = [record for record in records if record not in self._run_of]
                if room >= 0 and new:
                    run = self._add(start, stop)
                    run.waiting.update(new)
                    self._run_of.update(dict.fromkeys(new, run))

    def holds(self, start: int, stop: int) -> bool:
        """Return whether the record `[start, stop)` is in a run or in blocks."""
        if start in self._run_of:
            return True
        return all(block in self._ranges for block in self.blocks(start, stop))

    def take(self, start: int, stop: int) -> memoryview | None:
        """Return the record `[start, stop)` from its run, None if it is not in one."""
        with self._lock:
            run = self._run_of.pop(start, None)
            if run is None:
                return None
            run.waiting.discard(start)
            if not run.waiting:
                self._drop(run)
        if stop > run.stop:
            return None
        return memoryview(self._result(run))[start - run.start : stop - run.start]

    def read(self, start: int, stop: int, *, ahead: bool = False) -> memoryview:
        """Return the bytes `[start, stop)` from blocks, with a copy only if there are several.

        `ahead` starts to fetch the blocks that follow.
        """
        with self._lock:
            held = [self._add(*block) for block in self.blocks(start, stop)]
        if ahead:
            # At most half of the cache: what was read last may be read again.
            most = max(self.block_bytes, min(AHEAD_BYTES, self.cache_bytes // 2))
            self.fetch_blocks(self.blocks(held[-1].stop, held[-1].stop + most))
        parts = [
            memoryview(self._result(block))[max(start - block.start, 0) : stop - block.start]
            for block in held
        ]
        return parts[0] if len(parts) == 1 else memoryview(b"".join(parts))

    def blocks(self, start: int, stop: int) -> list[ByteRange]:
        """Return the blocks that the bytes `[start, stop)` are in."""
        return self.source.pieces(start, stop, self.block_bytes)

    def _add(self, start: int, stop: int) -> _Range:
        """Return the range, fetched unless it is held, as the most recently used."""
        found = self._ranges.get((start, stop))
        if found is not None:
            self._ranges.move_to_end((start, stop))
            return found
        new = self._ranges[start, stop] = _Range(start, stop, self.source.fetch(start, stop))
        self.held_bytes += stop - start
        while self.held_bytes > self.cache_bytes and len(self._ranges) > 1:
            self._drop(next(iter(self._ranges.values())))
        return new

    def _drop(self, dropped: _Range) -> None:
        if self._ranges.get((dropped.start, dropped.stop)) is dropped:
            del self._ranges[dropped.start, dropped.stop]
            self.held_bytes -= dropped.stop - dropped.start
            for record in dropped.waiting:
                del self._run_of[record]

    def _result(self, held: _Range) -> bytes:
        try:
            return held.data.result()
        except BaseException:
            with self._lock:
                self._drop(held)  # the next reader fetches it again
            raise
