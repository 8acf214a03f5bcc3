"""Finds the whole records of a `.rec` file, and goes on where its reader stops: at damage.

The reader walks from record to record by their lengths. Where no whole record starts, this module
looks for the next one: no part of a well-written file holds the magic on a 4-byte boundary (see
`data.records.format`), so every magic may be a record's start. Bytes that no whole record covers
are damage.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from data.records.format import HEADER_WORDS, MAGIC, PART, ByteRange, Bytes, Int64s, RecordError
from data.records.reader import RecordFile

Offsets = Int64s

_READ_BYTES: Final = 1 << 20  # at a time: stays in the core's cache
_PAGE: Final = 4096  # bytes: the unit in which a disk's errors are reported
_START_BYTES: Final = 1 << 20  # in which a RecordIO file must have a magic
_HEADER_BYTES: Final = 4 * HEADER_WORDS


class DamagedFile(RecordFile):
    """A `.rec` file that may be damaged and may lie on a failing disk.

    Every byte is read once with `preadv` before it is read through the mapping: a bad sector is
    then an error to be reported, not a signal (SIGBUS) that ends the process. That takes a quarter
    of the time of a check without decoding, and a hundredth with. A record with a byte that cannot
    be read is not whole.

    Raises `RecordError` for a file that is empty, a Git LFS pointer, or has no record's start in
    its first MiB.
    """

    def __init__(self, path: Path) -> None:
        self.damage: list[ByteRange] = []  # belong to no whole record, as far as it was scanned
        self.unreadable: list[ByteRange] = []  # pages that the disk cannot read
        self._read_to = 0
        self._scratch = memoryview(bytearray(_READ_BYTES))
        super().__init__(path)
        beginning = min(_START_BYTES, self.size)
        with path.open("rb", buffering=0) as self._disk:
            if self._next_magic(0, beginning) == beginning:
                super()._check_start(bytes(self._bytes(0, min(512, self.size))))  # raises

    def __reduce__(self) -> tuple[Any, ...]:
        return DamagedFile, (self.path,), {"_read_to": self.size}  # records were read ahead here

    def _check_start(self, start: bytes) -> None:
        if not start:
            super()._check_start(start)  # raises

    def whole_records(self, chunk_bytes: int) -> Iterator[Offsets]:
        """Yield the offsets of all whole records, rising, `chunk_bytes` of the file at a time."""
        with open(self.path, "rb", buffering=0) as self._disk:
            position = 0  # where the next record should start
            for start in range(0, self.size, chunk_bytes):
                stop = min(start + chunk_bytes, self.size)
                found = [np.empty(0, np.int64)]
                while position < stop:
                    self._read_ahead(stop + _HEADER_BYTES)
                    offsets, position = self.walk(position, self._readable_to(position, stop))
                    # A wrong length shows only in what follows: look at the last record again.
                    if len(offsets) and not self._is_whole(int(offsets[-1])):
                        offsets, position = offsets[:-1], int(offsets[-1])
                    found.append(offsets)
                    if position < stop:
                        resumed = self._next_whole(position)
                        self.damage.append((position, resumed))
                        position = resumed
                yield np.concatenate(found)

    def words(self, indices: Offsets) -> npt.NDArray[np.uint32]:
        """Return the 4-byte words at `indices`."""
        return self._words.take(indices, mode="clip")  # without the interpreter's lock

    def start_of(self, offset: int) -> bytes:
        """Return the bytes of a part's frame: fewer at the end of the file, none if unreadable."""
        stop = min(offset + PART.size, self.size)
        return bytes(self._bytes(offset, stop)) if self._is_readable(offset, stop) else b""

    def _next_whole(self, at: int) -> int:
        """Return where the first whole record after `at` starts, or the end of the file."""
        while True:
            at = self._next_magic(at + 4, self.size)
            if at == self.size or self._is_whole(at):
                return at

    def _is_whole(self, offset: int) -> bool:
        """Return whether a whole record starts at `offset`.

        One that contains a magic and ends where no record starts has a wrong length. One that
        contains a magic and ends where another starts is from a writer that does not split there.
        """
        try:
            parts, end = self._parts(offset, None)
        except RecordError:
            return False
        last_part = end - (len(parts[-1]) + 3 & ~3)
        ends_well = end >= self.size or self._next_magic(end, end + 4) == end
        return ends_well or self._next_magic(last_part, end) == end

    def _next_magic(self, start: int, stop: int) -> int:
        """Return the first multiple of 4 in `[start, stop)` with the magic; `stop` for none."""
        while start < stop:
            end = min(start // _PAGE * _PAGE + _PAGE, stop)
            if self._is_readable(start, end):
                found = np.flatnonzero(self._words[start // 4 : end // 4] == MAGIC)
                if len(found):
                    return start + 4 * int(found[0])
            start = end
        return stop

    def _bytes(self, start: int, stop: int) -> Bytes:
        if not self._is_readable(start, stop):
            raise RecordError(f"{self.path}: the bytes {start} to {stop} cannot be read")
        return super()._bytes(start, stop)

    def _is_readable(self, start: int, stop: int) -> bool:
        self._read_ahead(stop)
        return not any(first < stop and start < end for first, end in self.unreadable)

    def _readable_to(self, start: int, stop: int) -> int:
        """Return up to where records may start so that their headers can be read."""
        bad = (first - _HEADER_BYTES for first, end in self.unreadable if end > start)
        return min(stop, *bad, stop)

    def _read_ahead(self, stop: int) -> None:
        """Read on to `stop`, or to the end of the file."""
        while self._read_to < min(stop, self.size):
            start, end = self._read_to, min(self._read_to + _READ_BYTES, self.size)
            if not self._can_read(start, end):
                pages = [(at, min(at + _PAGE, end)) for at in range(start, end, _PAGE)]
                self.unreadable += [page for page in pages if not self._can_read(*page)]
            self._read_to = end

    def _can_read(self, start: int, stop: int) -> bool:
        into = self._scratch[: stop - start]
        try:
            return os.preadv(self._disk.fileno(), [into], start) == len(into)
        except OSError:
            return False
