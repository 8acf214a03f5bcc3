"""Reads RecordIO files: single records, or the headers of many at once."""

import mmap
import os
from array import array
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from data.files import refuse_lfs_pointer
from data.records.format import (
    FIRST,
    HEADER_WORDS,
    LAST,
    MAGIC,
    MAGIC_BYTES,
    MIDDLE,
    PART,
    SIZE_BITS,
    SIZE_MASK,
    WHOLE,
    Bytes,
    Headers,
    Int64s,
    RecordError,
    decode_headers,
    joined_words,
)
from data.records.locations import fingerprint, sibling

# A payload contains the magic by chance once in 4 billion words. More parts than this are not a
# record but an attack on memory.
MAX_PARTS: Final = 1 << 16
_FRAME: Final = PART.size  # a look-up less per image
_FIX: Final = "copy or make the pair again, or delete the .idx to have it rebuilt from a whole .rec"

Keys = Int64s | range


class RecordFile:
    """A memory-mapped `.rec` file. The mapping is read-only and survives a fork.

    `data.records.remote.reader.RemoteRecordFile` has the same interface for a URL.

    Raises `RecordError` if the file is missing, empty, a Git LFS pointer or not RecordIO.
    """

    path: Path | str  # or its URL
    size: int  # in bytes
    fingerprint: str  # changes when the file is written again
    is_remote = False  # whether reading costs requests, so that as little as possible is read

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise RecordError(
                f"{path} does not exist: expected a RecordIO file; copy or make it again"
            )
        with path.open("rb") as file:
            self._check_start(file.read(512))
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self.fingerprint = fingerprint(os.fstat(file.fileno()))
        self._view = memoryview(self._map)
        self.size = len(self._view)
        self._words = np.frombuffer(self._map, "<u4", count=self.size // 4)

    def index_path(self) -> Path | None:
        """Return the `.idx` of the same name, or None if there is none."""
        path = Path(sibling(self.path, ".idx"))
        return path if path.is_file() else None

    def know_offsets(self, offsets: Int64s) -> None:
        """Tell a remote file where records start, int64 [n]."""

    def prefetch(self, offsets: Int64s, *, whole_blocks: bool = False) -> None:
        """Tell a remote file which records are read next, by their offsets, int64 [m]."""

    def opening_lock(self) -> AbstractContextManager[None]:
        """Return a lock under which one process of the machine opens a remote file for all."""
        return nullcontext()

    def where(self, offset: int, key: int | None = None) -> str:
        """Return the location of a record in words, for messages."""
        return f"{self.path}, {'' if key is None else f'key {key}, '}offset {offset}"

    def read(self, offset: int, key: int | None = None) -> Bytes:
        """Return the payload of the record at `offset`, without a copy unless it is in parts.

        Raises `RecordError`, naming file, `key` and offset, if no whole record starts there.
        """
        if 0 <= offset <= self.size - _FRAME:
            data = self._start_of(offset)
            magic, word = PART.unpack_from(data)
            stop = _FRAME + (word & SIZE_MASK)
            if magic == MAGIC and word >> SIZE_BITS == WHOLE and stop <= len(data):
                return data[_FRAME:stop]
        parts, _ = self._parts(offset, key)
        return parts[0] if len(parts) == 1 else MAGIC_BYTES.join(parts)

    def scan(self) -> Int64s:
        """Return the offsets of all records, int64 [n], found by reading the file once.

        Raises `RecordError` at the first offset where a whole record should start and none does.
        """
        offsets, stop = self.walk(0, self.size)
        if stop < self.size:
            self._parts(stop, None)  # raises
        return offsets

    def walk(self, start: int, stop: int) -> tuple[Int64s, int]:
        """Walk from record to record: those that follow one another from `start` on.

        Returns their offsets, all below `stop`, int64 [n], and where the next record should start:
        below `stop` where no whole record starts there.
        """
        offsets = array("q")
        append, unpack, data = offsets.append, PART.unpack_from, self._map
        magic_word, split, last = MAGIC, WHOLE + 1 << SIZE_BITS, self.size - PART.size
        offset = start
        while offset < stop:
            magic, word = unpack(data, offset) if offset <= last else (0, 0)
            following = (offset + 8 + word + 3) & ~3
            if magic != magic_word or word >= split or following > self.size:
                try:
                    following = self._parts(offset, None)[1]
                except RecordError:
                    break
            append(offset)
            offset = following
        return np.frombuffer(offsets, np.int64), offset

    def headers(self, offsets: Int64s, keys: Keys | None = None) -> Headers:
        """Return the headers of the records at `offsets`, int64 [n], without reading the images.

        Raises `RecordError`, naming the key among `keys`, if no whole record starts at an offset.
        """
        outside = (offsets < 0) | (offsets % 4 != 0) | (offsets > self.size - PART.size)
        words = self._header_words(np.where(outside, 0, offsets))
        whole = (words[0] == MAGIC) & (words[1] >> SIZE_BITS == WHOLE) & ~outside
        whole &= offsets + PART.size + (words[1] & SIZE_MASK) <= self.size
        for row in np.flatnonzero(~whole).tolist():
            parts, _ = self._parts(int(offsets[row]), None if keys is None else int(keys[row]))
            words[:, row] = joined_words(parts)
        return decode_headers(words)

    def headers_in_chunks(
        self, offsets: Int64s, keys: Keys | None = None, *, chunk: int = 1 << 16
    ) -> Iterator[tuple[slice, Headers]]:
        """Yield the headers of `chunk` records at a time, with their rows in `offsets`.

        Each time, the pages that were read are released: one page per record would add up to
        gigabytes of this process's memory.
        """
        for start in range(0, len(offsets), chunk):
            rows = slice(start, min(start + chunk, len(offsets)))
            yield rows, self.headers(offsets[rows], None if keys is None else keys[rows])
            self.release_pages()

    def release_pages(self) -> None:
        """Release the memory of the pages read so far; they stay in the system's cache."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def _check_start(self, start: bytes) -> None:
        """Raise `RecordError` if `start`, up to 512 bytes, is not the start of a RecordIO file."""
        refuse_lfs_pointer(self.path, start, RecordError)
        if not start:
            raise RecordError(
                f"{self.path} is empty: expected a RecordIO file; copy or make it again"
            )
        if not start.startswith(MAGIC_BYTES):
            raise RecordError(
                f"{self.path} is not a RecordIO file: it starts with {start[:8]!r}, expected "
                f"{MAGIC_BYTES!r}; copy or make it again"
            )

    def _header_words(self, offsets: Int64s) -> npt.NDArray[np.uint32]:
        """Return the first words of the records at `offsets`: uint32 [HEADER_WORDS, n].

        Words beyond the end of a record or of the file may be anything.
        """
        words = np.empty((HEADER_WORDS, len(offsets)), np.uint32)
        for number, column in enumerate(words):
            np.take(self._words, offsets // 4 + number, out=column, mode="clip")
        return words

    def _start_of(self, offset: int) -> memoryview:
        """Return bytes from `offset` on, at least the frame of the part that starts there."""
        return self._view[offset:]

    def _bytes(self, start: int, stop: int) -> Bytes:
        return self._view[start:stop]

    def _parts(self, offset: int, key: int | None) -> tuple[list[Bytes], int]:
        """Return the parts of the record at `offset` and the offset of the next record."""
        parts: list[Bytes] = []
        at, size = offset, -len(MAGIC_BYTES)
        while True:
            flag, stop = self._part(at, offset, key)
            expected = (MIDDLE, LAST) if parts else (WHOLE, FIRST)
            if flag not in expected:
                raise RecordError(
                    f"{self.where(offset, key)}: the part at {at} has flag {flag}, expected "
                    f"{expected[0]} or {expected[1]}; {_FIX}"
                )
            parts.append(self._bytes(at + PART.size, stop))
            size += len(MAGIC_BYTES) + len(parts[-1])
            if len(parts) > MAX_PARTS or size > SIZE_MASK:
                raise RecordError(
                    f"{self.where(offset, key)}: the record has not ended after {len(parts)} parts "
                    f"and {size} bytes: expected at most {MAX_PARTS} parts and {SIZE_MASK} bytes; "
                    f"{_FIX}"
                )
            at = (stop + 3) & ~3
            if flag in (WHOLE, LAST):
                return parts, at

    def _part(self, at: int, offset: int, key: int | None) -> tuple[int, int]:
        """Return flag and end of the part at `at`, which belongs to the record at `offset`."""
        where = self.where(offset, key)
        if not 0 <= at <= self.size - PART.size:
            raise RecordError(
                f"{where}: a record should start at {at}, but the file has {self.size} bytes: "
                f"it is truncated, or the .idx belongs to another file; {_FIX}"
            )
        magic, word = PART.unpack(self._bytes(at, at + PART.size))
        if magic != MAGIC:
            raise RecordError(
                f"{where}: no record starts at {at}: found {magic:#010x}, expected {MAGIC:#010x}: "
                f"the file is damaged, or the .idx belongs to another file; {_FIX}"
            )
        stop = at + PART.size + (word & SIZE_MASK)
        if stop > self.size:
            raise RecordError(
                f"{where}: the record ends at {stop}, but the file has {self.size} bytes: "
                f"it is truncated; {_FIX}"
            )
        return word >> SIZE_BITS, stop
