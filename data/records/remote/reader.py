"""Reading RecordIO from object stores and web servers: the interface of `RecordFile`, by URL.

What costs time there is the number of requests, so each way of reading has its own shape:

- records that a batch announced (`prefetch`) come each with a request for just its bytes, the
  near ones together, all at once; or with their whole blocks, where their neighbours follow;
- records read one after the other come in whole blocks, the next ones fetched ahead;
- headers come with the gaps between them where these are small, and are kept on this machine.
"""

import os
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data.records.format import (
    HEADER_WORDS,
    MAGIC,
    MAGIC_BYTES,
    PART,
    SIZE_BITS,
    SIZE_MASK,
    WHOLE,
    Bytes,
    RecordError,
)
from data.records.locations import default_cache_folder
from data.records.reader import RecordFile
from data.records.remote.block_cache import BlockCache
from data.records.remote.cache import (
    HeaderTable,
    download,
    entry_folder,
    lock,
    save_array,
)
from data.records.remote.ranges import RemoteMissing, RemoteObject, Span

BLOCK_BYTES = 4 << 20
# Holds what the order `blocks` mixes at its defaults: 8 times 4,096 records of some 10 kB.
CACHE_BYTES = 512 << 20
# A gap of up to this share of a block is read along: another request would take longer.
_SMALL_GAP = 1 / 32
# Read of a record whose size is not known: nearly every aligned face is smaller.
_USUAL_RECORD = 64 << 10
_HEADER_BYTES = 4 * HEADER_WORDS
# So many records one after the other are no accident of a shuffled order: others will follow.
_STREAK = 4
# Headers kept from here on: fewer are asked for again as quickly.
_KEPT_FROM = 64
_WALK_CHUNK = 1 << 20  # records whose headers are in memory while a file is walked through


class RemoteRecordFile(RecordFile):
    """A `.rec` file at a URL, with its index and headers kept in a local cache.

    Safe in worker processes: each opens its own connections and has its own blocks. A pickle
    holds what is known of the file, and asks nothing of the store.

    Args:
        url: of the `.rec`; any that fsspec knows.
        block_bytes: of a block; one request's worth.
        cache_bytes: bound of the blocks and records held in a process.
        patience: seconds that one try of a request may take.
        cache_folder: for indexes and headers; the user's cache unless stated.

    Raises `RemoteError` for what cannot be reached, and `RecordError` as `RecordFile` does.
    """

    is_remote = True

    def __init__(
        self,
        url: str,
        *,
        block_bytes: int = BLOCK_BYTES,
        cache_bytes: int = CACHE_BYTES,
        patience: float = 30.0,
        cache_folder: Path | None = None,
    ) -> None:
        self.path = url
        self.block_bytes = block_bytes
        self.cache_bytes = cache_bytes
        self._object = RemoteObject(url, patience=patience)
        self._cache_folder = cache_folder or default_cache_folder()
        self.size = self._object.size
        self.fingerprint = repr(sorted(self._object.version.items()))
        self._offsets = np.empty(0, np.int64)
        self._blocks: tuple[int, BlockCache] | None = None  # and the process that they belong to
        self._index_path: Path | None = None  # once it is here
        self._following = -1  # where the record after the last one read starts
        self._streak = 0  # records that were read one after the other until now
        self._check_start(self._object.fetch(0, min(512, self.size)).result() if self.size else b"")

    def __reduce__(self) -> tuple[Any, ...]:
        state = self.__dict__ | {"_blocks": None}
        return object.__new__, (RemoteRecordFile,), state

    def know_offsets(self, offsets: npt.NDArray[np.int64]) -> None:
        """Tell where records start, int64 [n]: from their distances come the sizes of requests."""
        self._offsets = offsets if (offsets[1:] > offsets[:-1]).all() else np.unique(offsets)

    def index_path(self) -> Path | None:
        """Return this machine's copy of the `.idx` beside the file, None where there is none."""
        if self._index_path is None:
            self._index_path = self._fetch_index()
        return self._index_path

    def _fetch_index(self) -> Path | None:
        try:
            index = RemoteObject(
                str(self.path).removesuffix(".rec") + ".idx", patience=self._object.patience
            )
        except RemoteMissing:
            return None
        folder = entry_folder(self._cache_folder, index)
        path = folder / index.url.rpartition("/")[2]
        with lock(folder):
            if not path.is_file():
                download(index, path, _cut(0, index.size, self.block_bytes))
        return path

    def read(self, offset: int, key: int | None = None) -> Bytes:
        """Return the payload of the record at `offset`.

        Raises `RecordError`, naming URL, `key` and offset, if no whole record starts there, and
        `RemoteError` if it cannot be read or the object was changed.
        """
        self._streak = self._streak + 1 if offset == self._following else 0
        try:
            if 0 <= offset <= self.size - 8:
                stop = int(self._stops(np.array([offset]))[0])
                data = self._read_span(offset, stop)
                magic, word = PART.unpack_from(data)
                end = 8 + (word & SIZE_MASK)
                if magic == MAGIC and word >> SIZE_BITS == WHOLE and offset + end <= self.size:
                    self._following = (offset + end + 3) & ~3
                    if end > len(data):
                        data = self._cache.read(offset, offset + end)
                    return data[8:end]
            parts, self._following = self._parts(offset, key)
        except RecordError:
            self._object.refuse_change()
            raise
        return parts[0] if len(parts) == 1 else MAGIC_BYTES.join(parts)

    def prefetch(self, offsets: npt.NDArray[np.int64], *, whole_blocks: bool = False) -> None:
        """Start to fetch the records at `offsets`, int64 [m], which are read next; do not wait.

        `whole_blocks` fetches all of the blocks that they lie in, for orders in which the
        neighbours follow soon; else only the records, near ones in one request.
        """
        starts = np.unique(offsets)
        starts = starts[(starts >= 0) & (starts <= self.size - 8)]
        stops = self._stops(starts)
        cache = self._cache
        if whole_blocks:
            cache.fetch_blocks(
                block
                for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)
                for block in range(start // self.block_bytes, (stop - 1) // self.block_bytes + 1)
            )
            return
        absent = [
            not cache.waits(start) and not cache.holds(start, stop)
            for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)
        ]
        starts, stops = starts[absent], stops[absent]
        cache.fetch_runs(
            (span, starts[rows].tolist()) for span, rows in _runs(starts, stops, self.block_bytes)
        )

    def scan(self) -> npt.NDArray[np.int64]:
        """Return the offsets of all records, int64 [n]; the file is streamed once, ever.

        The headers are kept on the way, so that asking for them reads nothing again. Raises
        `RecordError` at the first place where no whole record starts.
        """
        folder = entry_folder(self._cache_folder, self._object)
        path = folder / "scan.npy"
        with lock(folder):
            if not path.is_file():
                found = []
                for offsets, words in self._walk():
                    self._headers_kept.add(offsets, words)
                    found.append(offsets)
                save_array(path, np.concatenate(found))
            scanned: npt.NDArray[np.int64] = np.load(path)
        return scanned

    def _walk(self) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.uint32]]]:
        """Yield offsets, int64 [n], and first words, uint32 [HEADER_WORDS, n], of all records."""
        offsets, headers = array("q"), bytearray()
        kept, base, offset = b"", 0, 0  # the bytes from `base` on, of which a header needs some
        for block in self._object.stream(_cut(0, self.size, self.block_bytes)):
            data = kept + block
            end = base + len(data)
            while offset + _HEADER_BYTES <= end or offset < end == self.size:
                at = offset - base
                magic, word = PART.unpack_from(data, at) if at + 8 <= len(data) else (0, 0)
                following = (offset + 8 + word + 3) & ~3
                if magic != MAGIC or word >> SIZE_BITS != WHOLE or following > self.size:
                    following = self._parts(offset, None)[1]
                offsets.append(offset)
                headers += data[at : at + _HEADER_BYTES].ljust(_HEADER_BYTES, b"\0")
                offset = following
            base, kept = min(offset, end), data[min(offset, end) - base :]
            if len(offsets) >= _WALK_CHUNK or end == self.size:
                words = np.frombuffer(headers, "<u4").reshape(-1, HEADER_WORDS).T
                yield np.frombuffer(offsets, np.int64), words
                offsets, headers = array("q"), bytearray()

    def _header_words(self, offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
        words, kept = np.zeros((HEADER_WORDS, len(offsets)), np.uint32), self._headers_kept
        if not len(kept.look_up(offsets, words)):
            return words
        with lock(kept.folder):  # other processes may be fetching just these
            unknown = kept.look_up(offsets, words)
            if len(unknown):
                words[:, unknown] = self._fetch_header_words(offsets[unknown])
            if len(unknown) >= _KEPT_FROM:
                kept.add(offsets[unknown], words[:, unknown])
        return words

    def _fetch_header_words(self, offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
        starts, places = np.unique(offsets, return_inverse=True)
        stops = np.minimum(starts + _HEADER_BYTES, self.size)
        found = np.zeros((len(starts), _HEADER_BYTES), np.uint8)
        runs = list(_runs(starts, stops, self.block_bytes))
        for (span, rows), data in zip(
            runs, self._object.stream(span for span, _ in runs), strict=True
        ):
            content = np.frombuffer(data.ljust(len(data) + _HEADER_BYTES, b"\0"), np.uint8)
            found[rows] = content[starts[rows, None] - span[0] + np.arange(_HEADER_BYTES)]
        return found.view("<u4")[places].T

    def release_pages(self) -> None:
        """Nothing of the file is mapped."""

    def _bytes(self, start: int, stop: int) -> Bytes:
        return self._cache.read(start, stop)

    def _read_span(self, start: int, stop: int) -> memoryview:
        """Return the bytes `[start, stop)` in the way that costs least."""
        cache, in_order = self._cache, self._streak >= _STREAK
        data = cache.take(start, stop)
        if data is None and (in_order or cache.holds(start, stop)):
            data = cache.read(start, stop, ahead=in_order)
        if data is None:
            data = memoryview(self._object.fetch(start, stop).result())
        return data

    def _stops(self, starts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return where the records at `starts`, int64 [m], end by what is known, or can be guessed.

        A distance of more than a block to the next one says nothing: others may lie between.
        """
        rows = np.searchsorted(self._offsets, starts, side="right")
        sizes = np.full(len(starts), _USUAL_RECORD)
        has_next = rows < len(self._offsets)
        sizes[has_next] = self._offsets[rows[has_next]] - starts[has_next]
        sizes[sizes > self.block_bytes] = _USUAL_RECORD
        stops: npt.NDArray[np.int64] = np.minimum(starts + np.maximum(sizes, 8), self.size)
        return stops

    @property
    def _cache(self) -> BlockCache:
        if self._blocks is None or self._blocks[0] != os.getpid():
            cache = BlockCache(
                self._object, block_bytes=self.block_bytes, cache_bytes=self.cache_bytes
            )
            self._blocks = os.getpid(), cache
        return self._blocks[1]

    @property
    def _headers_kept(self) -> HeaderTable:
        return HeaderTable(entry_folder(self._cache_folder, self._object), HEADER_WORDS)


def _cut(start: int, stop: int, size: int) -> Iterator[Span]:
    """Yield the spans of at most `size` bytes that `[start, stop)` is made of."""
    for first in range(start, stop, size):
        yield first, min(first + size, stop)


def _runs(
    starts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64], most: int
) -> Iterator[tuple[Span, slice]]:
    """Join sorted spans with small gaps between them into runs of at most `most` bytes, a block.

    Yields each run with the rows that are in it. A span of more than `most` is a run of its own.
    """
    first = 0
    ends, begins = stops.tolist(), starts.tolist()
    for row in range(1, len(begins) + 1):
        if (
            row == len(begins)
            or begins[row] - ends[row - 1] > most * _SMALL_GAP
            or ends[row] - begins[first] > most
        ):
            yield (begins[first], ends[row - 1]), slice(first, row)
            first = row
