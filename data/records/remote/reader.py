"""Reads RecordIO from object stores and web servers, with the interface of `RecordFile`.

The number of requests is what takes time there, so records are read in three ways:

- records that a batch announced (`prefetch`): each with a request for just its bytes, near ones
  together, all at once; or with whole blocks, if their neighbours follow soon;
- records read in file order: in whole blocks, with the next ones fetched ahead;
- headers: together with the gaps between them if these are small.
"""

import logging
import os
from array import array
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from fsspec.utils import merge_offset_ranges

from data.records.array_file import check_intact, check_offsets, map_array, write_checksum
from data.records.cache_folder import is_cached, open_cached
from data.records.format import (
    HEADER_WORDS,
    MAGIC,
    PART,
    SIZE_BITS,
    WHOLE,
    ByteRange,
    Bytes,
    Int64s,
    RecordError,
)
from data.records.locations import default_cache_folder, shown, sibling
from data.records.reader import RecordFile
from data.records.remote.local_copies import folder_lock, local_copy, local_folder
from data.records.remote.range_cache import RangeCache
from data.records.remote.ranges import RemoteMissing, RemoteObject, RemoteRefused

logger = logging.getLogger(__name__)

BLOCK_BYTES: Final = 4 << 20
# Holds what the order `blocks` mixes by default: 8 times 4,096 records of some 10 kB.
CACHE_BYTES: Final = 512 << 20
# A gap of up to this fraction of a block is read too: another request would take longer.
_SMALL_GAP: Final = 1 / 32
# Bytes to read of a record of unknown size: nearly every aligned face is smaller.
_USUAL_RECORD: Final = 64 << 10
_HEADER_BYTES: Final = 4 * HEADER_WORDS
# After so many records in file order, more are likely to follow: not a shuffled order's accident.
_STREAK: Final = 4
_WALK_CHUNK: Final = 1 << 20  # records whose headers are in memory while a file is scanned

Words = npt.NDArray[np.uint32]


class RemoteRecordFile(RecordFile):
    """A `.rec` file at a URL that fsspec knows. Survives a fork.

    Raises `RemoteError` for what cannot be reached, and `RecordError` as `RecordFile` does.
    """

    is_remote = True

    def __init__(
        self,
        url: str,
        *,
        block_bytes: int = BLOCK_BYTES,  # of one request
        cache_bytes: int = CACHE_BYTES,  # limit of what a process holds
        patience: float = 30.0,  # seconds that one attempt of a request may take
        cache_folder: Path | None = None,  # for copies of index and headers; by default the user's
    ) -> None:
        self.path = shown(url)
        self.block_bytes = block_bytes
        self.cache_bytes = cache_bytes
        self._object = RemoteObject(url, patience=patience)
        self._cache_folder = cache_folder or default_cache_folder()
        self.size = self._object.size
        self.fingerprint = repr(sorted(self._object.version.items()))
        self._offsets: Int64s = np.empty(0, np.int64)
        self._cache_of: tuple[int, RangeCache] | None = None  # with the id of its process
        self._index_path: Path | None = None  # of the local copy, once there is one
        self._lacks_index = False
        self._scanned: tuple[Int64s, Words] = (np.empty(0, np.int64), np.empty(0, np.uint32))
        self._next = -1  # offset after the last record read
        self._streak = 0  # records read in file order so far
        self._check_start(self._object.fetch(0, min(512, self.size)).result() if self.size else b"")

    def know_offsets(self, offsets: Int64s) -> None:
        """Tell where records start, int64 [n]; their distances give the sizes of requests."""
        self._offsets = offsets if (offsets[1:] > offsets[:-1]).all() else np.unique(offsets)

    def opening_lock(self) -> AbstractContextManager[None]:
        """Return a lock under which one process of the machine opens the file for all."""
        return folder_lock(self._folder)

    def index_path(self) -> Path | None:
        """Return the local copy of the `.idx` next to the file, None if there is no `.idx`."""
        if self._index_path is None and not self._lacks_index:
            url = str(sibling(self._object.url, ".idx"))
            try:
                index = RemoteObject(url, patience=self._object.patience)
            except RemoteMissing:
                self._lacks_index = True
                return None
            except RemoteRefused:
                if "?" not in url:
                    raise
                logger.info("%s is signed, and not for its .idx: going without that", self.path)
                self._lacks_index = True
                return None
            folder = local_folder(self._cache_folder, index)
            path = folder / "train.idx"
            with folder_lock(folder):  # one process fetches, the others wait
                # One that was cut at the end of a line would be an index of fewer records.
                if not is_cached(path) or path.stat().st_size != index.size:
                    pieces = index.pieces(0, index.size, self.block_bytes)
                    with local_copy(path) as file:
                        file.writelines(index.stream(pieces))
            self._index_path = path
        return self._index_path

    def read(self, offset: int, key: int | None = None) -> Bytes:
        """Return the payload of the record at `offset`.

        Raises `RecordError`, naming URL, `key` and offset, if no whole record starts there, and
        `RemoteError` if it cannot be read or the object was changed.
        """
        try:
            return super().read(offset, key)
        except RecordError:
            self._object.refuse_change()
            raise

    def prefetch(self, offsets: Int64s, *, whole_blocks: bool = False) -> None:
        """Start to fetch the records at `offsets`, int64 [m], which are read next; do not wait.

        `whole_blocks` fetches all blocks that they are in, for orders in which their neighbours
        follow soon. Otherwise only the records are fetched, near ones in one request.
        """
        starts = np.unique(offsets)
        starts = starts[(starts >= 0) & (starts <= self.size - PART.size)]
        stops = self._stops(starts)
        cache, records = self._cache, list(zip(starts.tolist(), stops.tolist(), strict=True))
        if whole_blocks:
            blocks = dict.fromkeys(block for record in records for block in cache.blocks(*record))
            cache.fetch_blocks(list(blocks))
            return
        absent = np.array([not cache.holds(*record) for record in records], np.bool_)
        starts, stops = starts[absent], stops[absent]
        runs = _merge(starts, stops, self.block_bytes)
        cache.fetch_runs((run, starts[rows].tolist()) for run, rows in runs)

    def scan(self) -> Int64s:
        """Return the offsets of all records, int64 [n]; read the file only once, ever.

        The headers are kept on this machine, so that they need not be read again. Raises
        `RecordError` at the first offset where a whole record should start and none does.
        """
        if not len(self._scan_table()[0]):
            found = []
            with local_copy(self._folder / "headers") as file:
                for offsets, words in self._walk():
                    file.write(words)
                    found.append(offsets)
                write_checksum(file)
            with local_copy(self._folder / "scan") as file:
                np.save(file, np.concatenate(found))
                write_checksum(file)
        return self._scan_table()[0]

    def _scan_table(self) -> tuple[Int64s, Words]:
        """Return what a scan found: offsets, int64 [n], and words, uint32 [n, HEADER_WORDS]."""
        path = self._folder / "scan"  # written after the headers
        if not len(self._scanned[0]):
            try:
                self._scanned = self._map_scan(path)
            except FileNotFoundError:
                pass
            # Not a list of errors: see `data.records.cache`.
            except Exception as error:
                logger.warning("%s cannot be used (%s): making it again", path, error)
        return self._scanned

    def _map_scan(self, path: Path) -> tuple[Int64s, Words]:
        with open_cached(path) as file, open_cached(path.with_name("headers")) as headers:
            check_intact(file)
            check_intact(headers)
            file.seek(0)
            offsets = map_array(file, np.int64)
            shape = len(offsets), HEADER_WORDS
            words = np.asarray(np.memmap(headers, "<u4", "r", 0, shape))
        check_offsets(offsets, self.size)
        if (offsets[1:] <= offsets[:-1]).any():
            raise ValueError("it has offsets that do not ascend")
        return offsets, words

    def _walk(self) -> Iterator[tuple[Int64s, bytes]]:
        """Yield offsets, int64 [n], and first words, as bytes, of records until the file ends."""
        offsets, headers = array("q"), bytearray()
        kept, base, offset = b"", 0, 0  # the bytes from `base` on that a header may need
        for block in self._object.stream(self._cache.blocks(0, self.size)):
            data = kept + block
            end = base + len(data)
            while offset + _HEADER_BYTES <= end or offset < end == self.size:
                at = offset - base
                magic, word = PART.unpack_from(data, at) if at + PART.size <= len(data) else (0, 0)
                following = (offset + PART.size + word + 3) & ~3
                if magic != MAGIC or word >> SIZE_BITS != WHOLE or following > self.size:
                    following = self._parts(offset, None)[1]
                offsets.append(offset)
                headers += data[at : at + _HEADER_BYTES].ljust(_HEADER_BYTES, b"\0")
                offset = following
            base, kept = min(offset, end), data[min(offset, end) - base :]
            if len(offsets) >= _WALK_CHUNK or end == self.size:
                yield np.frombuffer(offsets, np.int64), bytes(headers)
                offsets, headers = array("q"), bytearray()

    def _header_words(self, offsets: Int64s) -> Words:
        scanned, words = self._scan_table()
        if len(scanned):
            rows = np.minimum(np.searchsorted(scanned, offsets), len(scanned) - 1)
            if (scanned[rows] == offsets).all():
                return words[rows].T
        starts, rows = np.unique(offsets, return_inverse=True)
        stops = np.minimum(starts + _HEADER_BYTES, self.size)
        found = np.zeros((len(starts), _HEADER_BYTES), np.uint8)
        runs = list(_merge(starts, stops, self.block_bytes))
        contents = self._object.stream(run for run, _ in runs)
        for ((start, _), members), data in zip(runs, contents, strict=True):
            content = np.frombuffer(data.ljust(len(data) + _HEADER_BYTES, b"\0"), np.uint8)
            found[members] = content[starts[members, None] - start + np.arange(_HEADER_BYTES)]
        return found.view("<u4")[rows].T

    def release_pages(self) -> None:
        """Do nothing: no pages of the file are mapped."""

    def _bytes(self, start: int, stop: int) -> Bytes:
        return self._cache.read(start, stop) if start < stop else b""

    def _start_of(self, offset: int) -> memoryview:
        """Return the record at `offset`, or as much as it probably has, in the cheapest way."""
        start, stop = offset, int(self._stops(np.array([offset]))[0])
        self._streak = self._streak + 1 if start == self._next else 0
        self._next = stop
        cache, in_order = self._cache, self._streak >= _STREAK
        data = cache.take(start, stop)
        if data is None and (in_order or cache.holds(start, stop)):
            data = cache.read(start, stop, ahead=in_order)
        return memoryview(self._object.fetch(start, stop).result()) if data is None else data

    def _stops(self, starts: Int64s) -> Int64s:
        """Return where the records at `starts`, int64 [m], end, as far as is known.

        A distance of more than a block to the next known offset says nothing: other records may
        be in between.
        """
        rows = np.searchsorted(self._offsets, starts, side="right")
        sizes = np.full(len(starts), _USUAL_RECORD)
        has_next = rows < len(self._offsets)
        sizes[has_next] = self._offsets[rows[has_next]] - starts[has_next]
        sizes[sizes > self.block_bytes] = _USUAL_RECORD
        stops: Int64s = np.minimum(starts + np.maximum(sizes, PART.size), self.size)
        return stops

    @property
    def _folder(self) -> Path:
        return local_folder(self._cache_folder, self._object)

    @property
    def _cache(self) -> RangeCache:
        if self._cache_of is None or self._cache_of[0] != os.getpid():
            cache = RangeCache(
                self._object, block_bytes=self.block_bytes, cache_bytes=self.cache_bytes
            )
            self._cache_of = os.getpid(), cache
        return self._cache_of[1]


def _merge(starts: Int64s, stops: Int64s, block_bytes: int) -> Iterator[tuple[ByteRange, slice]]:
    """Merge sorted ranges with small gaps into runs of at most a block; yield each with its rows.

    A range of more than a block is a run of its own.
    """
    _, firsts, lasts = merge_offset_ranges(
        [""] * len(starts), starts.tolist(), stops.tolist(),
        max_gap=int(block_bytes * _SMALL_GAP), max_block=block_bytes, sort=False,
    )  # fmt: skip
    bounds = [*np.searchsorted(starts, firsts).tolist(), len(starts)]
    for number, run in enumerate(zip(firsts, lasts, strict=True)):
        yield run, slice(bounds[number], bounds[number + 1])
