"""Where the records of a `.rec` file start: read from its `.idx`, or found by a walk through it."""

import errno
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from data.files import atomic_write, refuse_lfs_pointer
from data.records.format import RecordError
from data.records.locations import beside, cache_name, default_cache_folder, places_beside
from data.records.reader import RecordFile

logger = logging.getLogger(__name__)

_DIGITS = 18  # of the largest key or offset, so that both fit an int64
_LINE = re.compile(rb"\d{1,18}\t\d{1,18}")
_LONGEST_LINE = 2 * _DIGITS + len("\t\r\n")
_LINES_AT_ONCE = 1 << 16
_MEND = "copy the .idx again, or delete it to have it rebuilt from the .rec"


@dataclass(frozen=True)
class RecordIndex:
    """Keys and places of all n records of a file.

    Attributes:
        keys: all different; int64 [n], in the order of the `.idx`, or of the file without one.
        offsets: of each key's record in bytes, int64 [n].
    """

    keys: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]

    def sorted(self) -> "RecordIndex":
        """Return the same in ascending order of the keys."""
        if (self.keys[1:] > self.keys[:-1]).all():
            return self
        order = np.argsort(self.keys, kind="stable")  # fast where they are nearly in order
        return RecordIndex(self.keys[order], self.offsets[order])

    def between(self, start: int, stop: int) -> "RecordIndex":
        """Return the part with `start <= key < stop`; the index must be sorted."""
        first, last = np.searchsorted(self.keys, [start, stop])
        return RecordIndex(self.keys[first:last], self.offsets[first:last])


def open_index(file: RecordFile, *, cache_folder: Path | None = None) -> RecordIndex:
    """Return the index of `file`, from the `.idx` of the same name where there is one.

    Where there is none it is rebuilt and written beside the file, or, if that folder takes no
    files, into `cache_folder` (the user's by default), where it is found the next time.

    Raises `RecordError` for an index that is damaged or another file's, and for a truncated file.
    """
    path = find_index(file, cache_folder=cache_folder)
    if path is not None:
        index = read_index(path)
        _check_keys(path, index.keys)
        _check_offsets(path, index, file)
        return index
    index = scan_index(file)
    places = places_beside(beside(file.path, ".idx"), _rebuilt_index(file, cache_folder))
    write_somewhere(places, lambda out: _write_index(out, index))
    return index


def find_index(file: RecordFile, *, cache_folder: Path | None = None) -> Path | None:
    """Return the `.idx` beside `file`, or the one that was rebuilt for it, or None."""
    if (path := file.index_path()) is not None:
        return path
    rebuilt = _rebuilt_index(file, cache_folder)
    return rebuilt if rebuilt.is_file() else None


def _rebuilt_index(file: RecordFile, cache_folder: Path | None) -> Path:
    """Return where an index of `file` is kept if it cannot be beside it."""
    # Text says nothing of the file that it was made from: here the name does.
    name = cache_name(beside(file.path, ".idx"), file.stamp)
    return (cache_folder or default_cache_folder()) / name


def write_somewhere(places: list[Path], write: Callable[[IO[bytes]], None]) -> Path | None:
    """Write a file to the first of `places` that takes it, atomically; return that place.

    A folder that nobody may write is left alone, also by root, who could: containers often run as
    root, on data that is not theirs. The folder of the last place, the cache, is made if need be.
    Where no place takes the file it is made again each time: that is logged, and no error.
    """
    faults = []
    for place in places:
        try:
            if place == places[-1]:
                place.parent.mkdir(parents=True, exist_ok=True)
            if not place.parent.stat().st_mode & 0o222:
                raise PermissionError(errno.EACCES, "the folder is read-only")
            with atomic_write(place) as file:
                write(file)
        except OSError as error:
            faults.append(f"{place.parent}: {error.strerror}")
        else:
            logger.info("wrote %s", place)
            return place
    logger.warning(
        "%s cannot be written and will be made again each time; set data.index_cache to a folder "
        "that takes files (%s)", places[0].name, "; ".join(faults),
    )  # fmt: skip
    return None


def read_index(path: Path, *, chunk_bytes: int = 1 << 24) -> RecordIndex:
    r"""Parse an `.idx` file, `key\toffset` on each line, at about 15 million lines a second.

    Memory beyond the result is a small multiple of `chunk_bytes`. Raises `RecordError` naming the
    first line that is something else.
    """
    with path.open("rb") as file:
        refuse_lfs_pointer(path, file.read(512), RecordError)
        file.seek(0)
        most = 1  # the last line may have no end
        while chunk := file.read(chunk_bytes):
            most += chunk.count(b"\n")
        index = RecordIndex(np.empty(most, np.int64), np.empty(most, np.int64))
        file.seek(0)
        count = 0
        while lines := file.read(chunk_bytes):
            # A file of zeros is a single line, not to be read whole.
            lines += (rest := file.readline(_LONGEST_LINE + 1))
            if len(rest) > _LONGEST_LINE:
                raise _refusal(path, lines, count)
            numbers = _parse_lines(path, lines, count)
            index.keys[count : count + len(numbers)] = numbers[:, 0]
            index.offsets[count : count + len(numbers)] = numbers[:, 1]
            count += len(numbers)
    return RecordIndex(index.keys[:count], index.offsets[:count])


def _parse_lines(path: Path, lines: bytes, lines_before: int) -> npt.NDArray[np.int64]:
    """Return keys and offsets, int64 [m, 2], of m whole lines."""
    if b"\r" in lines:
        lines = lines.replace(b"\r\n", b"\n")
    if not lines.endswith(b"\n"):
        lines += b"\n"
    # What is left without the digits shows the form of every line in one pass at the speed of
    # memory; only then may the parser, which takes any white space and stops at garbage, see it.
    marks = lines.translate(None, b"0123456789")
    count = len(marks) // 2
    if marks == b"\t\n" * count:
        numbers = np.fromstring(lines, dtype=np.int64, sep=" ")
        if len(numbers) == 2 * count and not (numbers >= 10**_DIGITS).any():
            return numbers.reshape(count, 2)
    raise _refusal(path, lines, lines_before)


def _refusal(path: Path, lines: bytes, lines_before: int) -> RecordError:
    """Return the error that names the first of `lines` that is not what it should be."""
    for number, line in enumerate(lines.split(b"\n"), start=lines_before + 1):
        if not _LINE.fullmatch(line):
            return RecordError(
                f"{path}, line {number}: found {line[:60]!r}, expected key<tab>offset; {_MEND}"
            )
    raise AssertionError(f"{path}: lines of the expected form were not parsed")


def scan_index(file: RecordFile) -> RecordIndex:
    """Rebuild the index by walking through the file once.

    The keys are the ids in the records' headers, as MXNet's tools write them, or 0, 1, 2 … in the
    order of the file where those are missing or not all different.
    """
    logger.info("%s has no .idx: reading the whole file once to find its records", file.path)
    offsets = file.scan()
    keys = np.empty_like(offsets)
    ids_are_keys = True
    for rows, headers in file.headers_in_chunks(offsets):
        keys[rows] = headers.ids.view(np.int64)  # an id of 2**63 or more becomes negative
        ids_are_keys &= bool((headers.image_sizes >= 0).all() and (keys[rows] >= 0).all())
    in_order = np.sort(keys)
    if not ids_are_keys or (in_order[1:] == in_order[:-1]).any():
        keys = np.arange(len(offsets))
    logger.info("%s: found %d records", file.path, len(offsets))
    return RecordIndex(keys, offsets)


def _write_index(file: IO[bytes], index: RecordIndex) -> None:
    """Write the lines that MXNet reads."""
    for start in range(0, len(index.keys), _LINES_AT_ONCE):
        rows = slice(start, start + _LINES_AT_ONCE)
        numbers = np.stack([index.keys[rows], index.offsets[rows]], 1).ravel().tolist()
        file.write((b"%d\t%d\n" * (len(numbers) // 2)) % tuple(numbers))


def _check_keys(path: Path, keys: npt.NDArray[np.int64]) -> None:
    if len(keys) == 0:
        raise RecordError(f"{path} names no records: expected one line a record; {_MEND}")
    if (keys[1:] > keys[:-1]).all():
        return
    order = np.argsort(keys, kind="stable")
    repeated = order[1:][keys[order[1:]] == keys[order[:-1]]]
    if len(repeated):
        line = int(repeated.min())
        earlier = int(np.flatnonzero(keys == keys[line])[0])
        raise RecordError(
            f"{path}, line {line + 1}: key {keys[line]} was on line {earlier + 1} already: "
            f"expected every key once; {_MEND}"
        )


def _check_offsets(path: Path, index: RecordIndex, file: RecordFile) -> None:
    """Find what a truncated file or a foreign index gives away without reading every record."""
    outside = np.flatnonzero((index.offsets > file.size - 8) | (index.offsets % 4 != 0))
    if len(outside):
        row = int(outside[0])
        raise RecordError(
            f"{path}, line {row + 1}: key {index.keys[row]} is said to start at offset "
            f"{index.offsets[row]} of {file.path}, which has {file.size} bytes: expected a "
            "multiple of 4 inside the file; the .rec is truncated, or the .idx is another "
            f"file's ({len(outside)} such lines); copy or make the pair again"
        )
    last = int(np.argmax(index.offsets))
    file.read(int(index.offsets[last]), int(index.keys[last]))
