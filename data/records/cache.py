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
import zlib
from functools import partial
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import numpy.typing as npt

from data.records.index import find_index, open_index, write_to_first
from data.records.labels import ImageTable, read_images
from data.records.locations import fingerprint, sibling, storage_paths
from data.records.reader import Keys, RecordFile

logger = logging.getLogger(__name__)

# To be raised when the format changes, or when the same `.rec` and `.idx` give another table.
_FORMAT: Final = 2
# Finding fewer images takes a few milliseconds, which is not worth a file next to the data.
CACHE_FROM: Final = 10_000
_CHUNK: Final = 1 << 22  # bytes
# The CRC-32 of any content that is followed by its own CRC-32.
_INTACT: Final = zlib.crc32(bytes(4))

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
    table = _find_table(paths, _metadata(file, cache_folder))
    if table is not None:
        return table
    with file.opening_lock():
        metadata = _metadata(file, cache_folder)  # before reading, so that a later change shows
        if file.is_remote:  # another process may have written the table meanwhile
            table = _find_table(paths, metadata)
            if table is not None:
                return table
        table = read_images(file, open_index(file, cache_folder=cache_folder))
        metadata = metadata or _metadata(file, cache_folder)
        if metadata is None or (len(table.offsets) < cache_from and not file.is_remote):
            return table
        path = write_to_first(paths, partial(_write_table, table=table, metadata=metadata))
        return table if path is None else _find_table([path], metadata) or table


def _metadata(file: RecordFile, cache_folder: Path | None) -> _Metadata | None:
    """Return what a cached table of `file` must state, None if there is no index to compare."""
    path = find_index(file, cache_folder=cache_folder)
    if path is None:
        return None
    return {"format": _FORMAT, "rec": file.fingerprint, "idx": fingerprint(path.stat())}


def _find_table(paths: list[Path], metadata: _Metadata | None) -> ImageTable | None:
    """Return the mapped table of the first of `paths` that has one with this metadata."""
    for path in paths if metadata is not None else []:
        try:
            with path.open("rb") as file:
                if _checksum(file) != _INTACT:
                    raise ValueError("it is damaged, or of an earlier version")
                found, table = _map_table(file)
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
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
    file.seek(0)
    file.write(_checksum(file).to_bytes(4, "little"))


def _map_table(file: IO[bytes]) -> tuple[_Metadata, ImageTable]:
    file.seek(0)
    head = json.loads(str(np.load(file)))
    offsets, first = _map_array(file), head["first_key"]
    keys: Keys = _map_array(file) if first is None else range(first, first + len(offsets))
    return head["metadata"], ImageTable(keys, offsets, _map_array(file), head["has_header"])


def _map_array(file: IO[bytes]) -> npt.NDArray[Any]:
    """Map the array that `np.save` wrote at the position of `file`, and skip it."""
    np.lib.format.read_magic(file)
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    start = file.tell()
    array = np.memmap(file, dtype, "r", start, shape)
    file.seek(start + array.nbytes)
    return np.asarray(array)  # reading a number from a `memmap` takes several times as long


def _checksum(file: IO[bytes]) -> int:
    """Return the CRC-32 of the rest of `file`."""
    checksum = 0
    while chunk := file.read(_CHUNK):
        checksum = zlib.crc32(chunk, checksum)
    return checksum
