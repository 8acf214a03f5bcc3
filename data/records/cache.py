"""The tables of a `.rec` file's images, kept in binary so that opening them again costs nothing.

`train.idx.cache` beside `train.idx`, or in a cache folder, holds keys, offsets and labels. It
serves as long as `.rec` and `.idx` have the size and the time of change that it states, and is
made again otherwise, or if its checksum is wrong. Ranks that do so at once replace each other's
file whole. Its arrays are mapped: all ranks and workers of a machine share one copy.
"""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np

from data.files import Array, ArrayFile, ArrayFileError, array_file_writer
from data.records.index import find_index, open_index, write_to_first
from data.records.labels import ImageTable, read_images
from data.records.locations import fingerprint, is_url, sibling, storage_paths
from data.records.reader import Keys, RecordFile

logger = logging.getLogger(__name__)

# Goes up when the same `.rec` and `.idx` no longer give the same table.
FORMAT = 1
# Fewer images are found afresh in a few milliseconds, which is worth no file beside the data.
CACHE_FROM = 10_000


class MappedTable(ImageTable):
    """A table whose arrays are those of a file; a pickle holds the place of the file alone."""

    def __init__(self, file: ArrayFile) -> None:
        arrays, first = file.arrays, file.facts["first_key"]
        count = len(arrays["offsets"])
        keys: Keys = arrays["keys"] if first is None else range(first, first + count)
        super().__init__(keys, arrays["offsets"], arrays["labels"], file.facts["has_header"])
        self._file = file

    def __reduce__(self) -> tuple[Callable[[ArrayFile], "MappedTable"], tuple[ArrayFile]]:
        return MappedTable, (self._file,)


def open_images(
    file: RecordFile, *, cache_folder: Path | None = None, cache_from: int = CACHE_FROM
) -> ImageTable:
    """Return the images of `file` and their labels, from the cache where it serves.

    Tables of `cache_from` images or more are cached, those of files that lie elsewhere always.
    `cache_folder` is for what cannot be written beside the file; the user's by default.

    Raises `RecordError` as `open_index` and `read_images` do.
    """
    places = storage_paths(sibling(file.path, ".idx.cache"), cache_folder)
    index_path = find_index(file, cache_folder=cache_folder)
    if index_path is not None:
        facts = _facts(file, index_path)
        for place in places:
            if (found := _read_table(place, facts)) is not None:
                return found
    table = read_images(file, open_index(file, cache_folder=cache_folder))
    if index_path is None:
        index_path = find_index(file, cache_folder=cache_folder)
        if index_path is None:  # it could not be written, so neither can this
            return table
        facts = _facts(file, index_path)
    if len(table.offsets) < cache_from and not is_url(file.path):
        return table
    written = _write_table(places, table, facts)
    return table if written is None else _read_table(written, facts) or table


def _facts(file: RecordFile, index_path: Path) -> dict[str, str | int]:
    """Return what a cached table must have been made from."""
    return {"format": FORMAT, "rec": file.fingerprint, "idx": fingerprint(index_path.stat())}


def _read_table(path: Path, facts: dict[str, str | int]) -> MappedTable | None:
    """Return the table that `path` holds, if it does and was made from what `facts` say."""
    try:
        file = ArrayFile(path)
    except FileNotFoundError:
        return None
    except (OSError, ArrayFileError) as error:
        logger.warning("%s; making it again", error)
        return None
    if {name: file.facts.get(name) for name in facts} != facts:
        logger.info("%s was made from another state of its .rec and .idx: making it again", path)
        return None
    return MappedTable(file)


def _write_table(places: list[Path], table: ImageTable, facts: dict[str, str | int]) -> Path | None:
    arrays: dict[str, Array] = {"offsets": table.offsets, "labels": table.labels}
    first: int | None = None
    if isinstance(table.keys, range):
        first = table.keys.start
    else:
        arrays["keys"] = np.asarray(table.keys)
    own_facts = {"first_key": first, "has_header": table.has_header}
    return write_to_first(places, array_file_writer(arrays, {**facts, **own_facts}))
