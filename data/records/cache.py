"""Caches the table of a `.rec` file's images in a file that all processes of a machine map.

`train.idx.cache`, next to `train.idx` or in a cache folder, is valid as long as `.rec` and `.idx`
have the sizes and modification times that it states. Otherwise, or if it is damaged, it is made
again. Ranks that do so at once replace each other's whole file. It consists of arrays as `np.save`
writes them, one after another, the first with the metadata, and ends with its CRC-32. That detects
what sizes cannot: pages of zeros after a power cut, flipped bits. Checking 200 MB takes a tenth of
a second.
"""

import json
import logging
from functools import partial
from pathlib import Path
from typing import IO, Final

import numpy as np

from data.records.array_file import check_intact, check_offsets, map_array, write_checksum
from data.records.cache_folder import open_cached
from data.records.index import find_index, open_index, write_to_first
from data.records.labels import INEXACT_FROM, ImageTable, read_images
from data.records.locations import fingerprint, sibling, storage_paths
from data.records.reader import Keys, RecordFile

logger = logging.getLogger(__name__)

# To be raised when the format changes, or when the same `.rec` and `.idx` give another table.
_FORMAT: Final = 2
# Finding fewer images takes a few milliseconds, which is not worth a file next to the data.
CACHE_FROM: Final = 10_000

_Metadata = dict[str, str | int]


def open_images(
    file: RecordFile, *, cache_folder: Path | None = None, cache_from: int = CACHE_FROM
) -> ImageTable:
    """Return the images of `file` and their labels, from the cache if it is valid.

    Tables of `cache_from` images or more are cached, those of remote files always. `cache_folder`
    is for what cannot be written next to the file; by default the user's.

    Raises `RecordError` as `open_index` and `read_images` do.
    """
    paths = storage_paths(sibling(file.path, ".idx.cache"), cache_folder)
    table = _find_table(paths, _metadata(file, cache_folder), file.size)
    if table is not None:
        return table
    with file.opening_lock():
        metadata = _metadata(file, cache_folder)  # before reading, so that a later change shows
        if file.is_remote:  # another process may have written the table meanwhile
            table = _find_table(paths, metadata, file.size)
            if table is not None:
                return table
        table = read_images(file, open_index(file, cache_folder=cache_folder))
        metadata = metadata or _metadata(file, cache_folder)
        if metadata is None or (len(table.offsets) < cache_from and not file.is_remote):
            return table
        path = write_to_first(paths, partial(_write_table, table=table, metadata=metadata))
        return table if path is None else _find_table([path], metadata, file.size) or table


def _metadata(file: RecordFile, cache_folder: Path | None) -> _Metadata | None:
    """Return what a cached table of `file` must state, None if there is no index to compare."""
    path = find_index(file, cache_folder=cache_folder)
    if path is None:
        return None
    return {"format": _FORMAT, "rec": file.fingerprint, "idx": fingerprint(path.stat())}


def _find_table(paths: list[Path], metadata: _Metadata | None, size: int) -> ImageTable | None:
    """Return the mapped table of the first of `paths` that has one with this metadata.

    `size` is that of the `.rec`, in which all records must be.
    """
    for path in paths if metadata is not None else []:
        try:
            with open_cached(path, follow=path != paths[-1]) as file:
                check_intact(file)
                found, table = _map_table(file)
            _check_table(table, size)
        except FileNotFoundError:
            continue
        # Not a list of errors: a file made to do harm may have any content and a right checksum.
        except Exception as error:
            logger.warning("%s cannot be used (%s): making it again", path, error)
            continue
        if found == metadata:
            return table
        logger.info("%s was made from another state of its .rec and .idx: making it again", path)
    return None


def _write_table(file: IO[bytes], *, table: ImageTable, metadata: _Metadata) -> None:
    keys = [] if isinstance(table.keys, range) else [table.keys]
    first = table.keys.start if isinstance(table.keys, range) else None
    head = json.dumps({"first_key": first, "has_header": table.has_header, "metadata": metadata})
    head += " " * (-len(head) % 16)  # of 4 bytes each: the arrays are aligned to 64 bytes
    for array in (np.array(head), table.offsets, *keys, table.labels):
        np.save(file, array)
    write_checksum(file)


def _map_table(file: IO[bytes]) -> tuple[_Metadata, ImageTable]:
    file.seek(0)
    head = json.loads(str(map_array(file, np.str_, dimensions=0)))
    offsets, first = map_array(file, np.int64), head["first_key"]
    keys: Keys = map_array(file, np.int64) if first is None else range(first, first + len(offsets))
    labels = map_array(file, np.int32)
    return head["metadata"], ImageTable(keys, offsets, labels, head["has_header"] is True)


def _check_table(table: ImageTable, size: int) -> None:
    """Raise `ValueError` for what no table of a file of `size` bytes has."""
    counts = len(table.offsets), len(table.labels), len(table.keys)
    if len(set(counts)) > 1 or counts[0] == 0:
        raise ValueError(f"it has {counts[0]} offsets, {counts[1]} labels and {counts[2]} keys")
    check_offsets(table.offsets, size)
    if table.labels.min() < 0 or table.labels.max() >= INEXACT_FROM:
        raise ValueError(f"it has labels from {table.labels.min()} to {table.labels.max()}")
