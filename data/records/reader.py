"""Reading RecordIO: a memory-mapped file, its records one by one or their headers in bulk."""

import mmap
import os
import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data.files import refuse_lfs_pointer
from data.records.format import (
    FIRST,
    HEADER,
    LAST,
    MAGIC,
    MAGIC_BYTES,
    MIDDLE,
    PART,
    SIZE_BITS,
    SIZE_MASK,
    WHOLE,
    Bytes,
    RecordError,
)
from data.records.locations import Location, beside, is_url, stamp

# A payload holds the magic by chance once in 4 billion words. So many parts are no record but an
# attempt to have a list of billions of them built.
MAX_PARTS = 1 << 16
_MEND = "copy or make the pair again, or delete the .idx to have it rebuilt from a whole .rec"
_HEADER_AND_LABELS = HEADER.size + 8  # as far as two labels reach

# What is looked at of a record in bulk: magic, size, and the payload up to its second label.
HEADER_WORDS = 10

Keys = npt.NDArray[np.int64] | range


@dataclass(frozen=True)
class Headers:
    """The headers of n records, column by column.

    Attributes:
        flags: number of labels after the header, 0 for a single label in it; uint32 [n].
        labels: first two labels, NaN where there is none; float32 [n, 2].
        ids: uint64 [n].
        image_sizes: bytes after header and labels; int64 [n]. Negative where the payload is too
            short to hold them: such a record has no header, and its other columns mean nothing.
    """

    flags: npt.NDArray[np.uint32]
    labels: npt.NDArray[np.float32]
    ids: npt.NDArray[np.uint64]
    image_sizes: npt.NDArray[np.int64]


class RecordFile:
    """A memory-mapped `.rec` file.

    Safe in worker processes: the mapping is read-only and survives a fork; a pickle holds the
    path alone and opens the file again.

    Attributes:
        path: of the file; a URL in `remote.reader`, which has all of this for remote files.
        size: bytes.
        is_remote: whether looking at a record costs a request: then as few as will do are.

    Raises `RecordError` when the file is missing, empty, a Git LFS pointer, or no RecordIO.

    Attributes:
        path: of the file.
        size: in bytes.
        stamp: text that changes when the file is written again; see `data.records.locations.stamp`.
    """

    path: Path | str
    size: int
    is_remote = False

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file() or path.stat().st_size == 0:
            state = "is empty" if path.is_file() else "does not exist"
            raise RecordError(f"{path} {state}: expected a RecordIO file; copy or make it again")
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self.stamp = stamp(os.fstat(file.fileno()))
        self._view = memoryview(self._map)
        self.size = len(self._view)
        self._check_start(bytes(self._bytes(0, min(512, self.size))))
        self._words = np.frombuffer(self._map, "<u4", count=self.size // 4)

    def __reduce__(self) -> tuple[Any, ...]:
        return RecordFile, (self.path,)

    def index_path(self) -> Path | None:
        """Return the `.idx` of the same name, None where there is none."""
        path = Path(beside(self.path, ".idx"))
        return path if path.is_file() else None

    def know_offsets(self, offsets: npt.NDArray[np.int64]) -> None:
        """Tell where records start, int64 [n]; of use to remote files only."""

    def prefetch(self, offsets: npt.NDArray[np.int64], *, whole_blocks: bool = False) -> None:
        """Tell what is read next, int64 [m]; of use to remote files only."""

    def where(self, offset: int, key: int | None = None) -> str:
        """Return the place of a record in words, for messages."""
        return f"{self.path}, {'' if key is None else f'key {key}, '}offset {offset}"

    def read(self, offset: int, key: int | None = None) -> Bytes:
        """Return the payload of the record at `offset`: no copy unless it is split into parts.

        Raises `RecordError`, naming file, `key` and offset, if no whole record starts there.
        """
        if 0 <= offset <= self.size - 8:
            magic, word = PART.unpack_from(self._view, offset)
            stop = offset + 8 + (word & SIZE_MASK)
            if magic == MAGIC and word >> SIZE_BITS == WHOLE and stop <= self.size:
                return self._view[offset + 8 : stop]
        parts, _ = self._parts(offset, key)
        return parts[0] if len(parts) == 1 else MAGIC_BYTES.join(parts)

    def scan(self) -> npt.NDArray[np.int64]:
        """Return the offsets of all records, int64 [n], found by walking through the file once.

        Raises `RecordError` at the first place where no whole record starts.
        """
        offsets, stop = self.walk(0, self.size)
        if stop < self.size:
            self._parts(stop, None)  # raises
        return offsets

    def walk(self, start: int, stop: int) -> tuple[npt.NDArray[np.int64], int]:
        """Walk from record to record: those that follow one another from `start` on.

        Returns their offsets, all below `stop`, int64 [n], and where the next record should start:
        below `stop` where no whole record starts there.
        """
        offsets = array("q")
        append, unpack, data = offsets.append, PART.unpack_from, self._map
        magic_word, split, last = MAGIC, WHOLE + 1 << SIZE_BITS, self.size - 8
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

    def headers(self, offsets: npt.NDArray[np.int64], keys: Keys | None = None) -> Headers:
        """Return the headers of the records at `offsets`, int64 [n], without touching the images.

        Raises `RecordError`, naming the key among `keys`, if no whole record starts at one.
        """
        outside = (offsets < 0) | (offsets % 4 != 0) | (offsets > self.size - 8)
        word = self._header_words(np.where(outside, 0, offsets))
        sizes = (word[1] & SIZE_MASK).astype(np.int64)
        flags = word[2]
        labels = np.stack([np.where(flags > 0, word[8], word[3]), word[9]], 1).view(np.float32)
        labels[flags < 2, 1] = np.nan
        ids = word[4].astype(np.uint64) | word[5].astype(np.uint64) << np.uint64(32)
        image_sizes = sizes - HEADER.size - 4 * flags.astype(np.int64)
        found = Headers(flags, labels, ids, image_sizes)
        # What is split into parts, or no record at all, is left to the reader of single records.
        plain = (word[0] == MAGIC) & (word[1] >> SIZE_BITS == WHOLE) & ~outside
        plain &= offsets + 8 + sizes <= self.size
        for row in np.flatnonzero(~plain).tolist():
            key = None if keys is None else int(keys[row])
            self._read_header(self._parts(int(offsets[row]), key)[0], found, row)
        return found

    def headers_in_chunks(
        self, offsets: npt.NDArray[np.int64], keys: Keys | None = None, *, chunk: int = 1 << 16
    ) -> Iterator[tuple[slice, Headers]]:
        """Yield the headers of `chunk` records at a time, with their place in `offsets`.

        The pages read go back to the system's cache each time, where they do not count as memory
        of this process: one page a record would add up to gigabytes.
        """
        for start in range(0, len(offsets), chunk):
            rows = slice(start, min(start + chunk, len(offsets)))
            yield rows, self.headers(offsets[rows], None if keys is None else keys[rows])
            self.release_pages()

    def _check_start(self, start: bytes) -> None:
        """Raise `RecordError` if `start`, up to 512 bytes, starts no RecordIO file."""
        refuse_lfs_pointer(self.path, start, RecordError)
        if not start:
            raise RecordError(
                f"{self.path} is empty: expected a RecordIO file; copy or make it again"
            )
        if not start.startswith(MAGIC_BYTES):
            raise RecordError(
                f"{self.path} is no RecordIO file: it starts with {start[:8]!r}, expected "
                f"{MAGIC_BYTES!r}; copy or make it again"
            )

    def _header_words(self, offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
        """Return the first words of the records at `offsets`: uint32 [HEADER_WORDS, n].

        Beyond the end of a record, and of the file, they may be anything.
        """
        words = np.empty((HEADER_WORDS, len(offsets)), np.uint32)
        for number, column in enumerate(words):
            np.take(self._words, offsets // 4 + number, out=column, mode="clip")
        return words

    def _bytes(self, start: int, stop: int) -> Bytes:
        return self._view[start:stop]

    def release_pages(self) -> None:
        """Give the pages read so far back to the system's cache; they are read again on demand."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def _read_header(self, parts: list[Bytes], into: Headers, row: int) -> None:
        """Fill in `row` from the `parts` of a payload, joining only what the header needs."""
        size = sum(map(len, parts)) + len(MAGIC_BYTES) * (len(parts) - 1)
        start = bytearray(parts[0][:_HEADER_AND_LABELS])
        for part in parts[1:]:
            if len(start) >= _HEADER_AND_LABELS:
                break
            start += MAGIC_BYTES + part[: _HEADER_AND_LABELS - len(start)]
        into.image_sizes[row] = -1
        if size < HEADER.size:
            return
        flag, label, into.ids[row], _ = HEADER.unpack_from(start)
        into.flags[row] = flag
        into.image_sizes[row] = size - HEADER.size - 4 * flag
        if into.image_sizes[row] >= 0:
            values = [*struct.unpack_from(f"<{min(flag, 2)}f", start, HEADER.size), np.nan]
            into.labels[row] = (values if flag else [label, np.nan])[:2]

    def _parts(self, offset: int, key: int | None) -> tuple[list[Bytes], int]:
        """Return the parts of the record at `offset` and where the next record starts."""
        parts: list[Bytes] = []
        at, size = offset, -len(MAGIC_BYTES)
        while True:
            flag, stop = self._part(at, offset, key)
            expected = (MIDDLE, LAST) if parts else (WHOLE, FIRST)
            if flag not in expected:
                raise RecordError(
                    f"{self.where(offset, key)}: the part at {at} has flag {flag}, expected "
                    f"{expected[0]} or {expected[1]}; {_MEND}"
                )
            parts.append(self._bytes(at + 8, stop))
            size += len(MAGIC_BYTES) + len(parts[-1])
            if len(parts) > MAX_PARTS or size > SIZE_MASK:
                raise RecordError(
                    f"{self.where(offset, key)}: the record goes on after {len(parts)} parts and "
                    f"{size} bytes: expected at most {MAX_PARTS} parts and {SIZE_MASK} "
                    f"bytes; {_MEND}"
                )
            at = (stop + 3) & ~3
            if flag in (WHOLE, LAST):
                return parts, at

    def _part(self, at: int, offset: int, key: int | None) -> tuple[int, int]:
        """Return flag and end of the part at `at`, which belongs to the record at `offset`."""
        where = self.where(offset, key)
        if not 0 <= at <= self.size - 8:
            raise RecordError(
                f"{where}: a record should start at {at}, but the file has {self.size} bytes: "
                f"it is truncated, or the .idx is another file's; {_MEND}"
            )
        magic, word = PART.unpack(self._bytes(at, at + 8))
        if magic != MAGIC:
            raise RecordError(
                f"{where}: no record starts at {at}: found {magic:#010x}, expected {MAGIC:#010x}: "
                f"the file is damaged, or the .idx is another file's; {_MEND}"
            )
        stop = at + 8 + (word & SIZE_MASK)
        if stop > self.size:
            raise RecordError(
                f"{where}: the record ends at {stop}, but the file has {self.size} bytes: "
                f"it is truncated; {_MEND}"
            )
        return word >> SIZE_BITS, stop


def open_record_file(location: Location, *, cache_folder: Path | None = None) -> RecordFile:
    """Return the `.rec` file at a path, or at a URL that fsspec knows.

    `cache_folder` is for what is kept of remote files; the user's by default. Raises as
    `RecordFile`, and `data.records.remote.ranges.RemoteError` for a URL that cannot be read.
    """
    if is_url(location):
        try:
            from data.records.remote.reader import RemoteRecordFile  # which is built on this module
        except ImportError as error:
            raise RecordError(
                f"{location}: URLs need packages that are missing ({error}): "
                "pip install -e '.[remote]'"
            ) from error
        return RemoteRecordFile(str(location), cache_folder=cache_folder)
    return RecordFile(Path(location))
