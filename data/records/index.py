"""Where the records of a `.rec` file start: read from its `.idx`, or found by scanning the file."""

import errno
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import numpy as np

from data.files import atomic_write, refuse_lfs_pointer
from data.records.cache_folder import is_cached, make_cache_folder
from data.records.format import PART, Int64s, RecordError
from data.records.locations import sibling, storage_paths
from data.records.reader import RecordFile

logger = logging.getLogger(__name__)

_DIGITS: Final = 18  # of the largest key or offset, so that both fit an int64
INDEX_LINE: Final = re.compile(rb"(\d{1,18})\t(\d{1,18})")
_LONGEST_LINE: Final = 2 * _DIGITS + len("\t\r\n")
_LINES_PER_WRITE: Final = 1 << 16
_FIX: Final = "copy the .idx again, or delete it to have it rebuilt from the .rec"


@dataclass(frozen=True)
class RecordIndex:
    """Keys and offsets of all n records, in the order of the `.idx`, or of a file without one."""

    keys: Int64s  # all different
    offsets: Int64s  # of each key's record in bytes

    def sorted(self) -> "RecordIndex":
        """Return the same index in ascending order of the keys."""
        if (self.keys[1:] > self.keys[:-1]).all():
            return self
        order = np.argsort(self.keys, kind="stable")  # fast where they are nearly sorted
        return RecordIndex(self.keys[order], self.offsets[order])

    def between(self, start: int, stop: int) -> "RecordIndex":
        """Return the part with `start <= key < stop`; the index must be sorted."""
        first, last = np.searchsorted(self.keys, [start, stop])
        return RecordIndex(self.keys[first:last], self.offsets[first:last])


def open_index(file: RecordFile, *, cache_folder: Path | None = None) -> RecordIndex:
    """Return the index of `file`, from the `.idx` of the same name if there is one.

    Otherwise it is rebuilt and written next to the file, or, if that folder is not writable, into
    `cache_folder` (by default the user's), where it is found the next time.

    Raises `RecordError` for an index that is damaged or belongs to another file, and for a
    truncated file.
    """
    path = find_index(file, cache_folder=cache_folder)
    if path is not None:
        index = read_index(path)
        _check_keys(path, index.keys)
        _check_offsets(path, index, file)
        return index
    index = scan_index(file)
    write_to_first(_index_paths(file, cache_folder), lambda out: _write_index(out, index))
    return index


def find_index(file: RecordFile, *, cache_folder: Path | None = None) -> Path | None:
    """Return the `.idx` next to `file`, or the one that was rebuilt for it, or None."""
    if (path := file.index_path()) is not None:
        return path
    rebuilt = _index_paths(file, cache_folder)[-1]
    return rebuilt if is_cached(rebuilt) else None


def _index_paths(file: RecordFile, cache_folder: Path | None) -> list[Path]:
    # An .idx does not say which state of the file it was made from: in the cache, its name does.
    return storage_paths(sibling(file.path, ".idx"), cache_folder, file.fingerprint)


def write_to_first(paths: list[Path], write: Callable[[IO[bytes]], None]) -> Path | None:
    """Write a file atomically to the first of `paths` that is writable, and return that path.

    A read-only folder is left alone, even by root, who could write there: containers often run as
    root, on data that is not theirs. The folder of the last path, the cache, is created. If no
    path is writable, log a warning and return None.
    """
    failures = []
    for path in paths:
        try:
            if path == paths[-1]:
                make_cache_folder(path.parent)
            if not path.parent.stat().st_mode & 0o222:
                raise PermissionError(errno.EACCES, "the folder is read-only")
            with atomic_write(path) as file:
                write(file)
        except OSError as error:
            failures.append(f"{path.parent}: {error.strerror}")
        else:
            logger.info("wrote %s", path)
            return path
    logger.warning(
        "%s cannot be written and will be made again each time; set data.index_cache to a writable "
        "folder (%s)", paths[0].name, "; ".join(failures),
    )  # fmt: skip
    return None


def read_index(path: Path, *, chunk_bytes: int = 1 << 24) -> RecordIndex:
    r"""Parse an `.idx` file, `key\toffset` on each line, at about 15 million lines per second.

    Memory beyond the result is a small multiple of `chunk_bytes`. Raises `RecordError` naming the
    first line of another form.
    """
    with path.open("rb") as file:
        refuse_lfs_pointer(path, file.read(512), RecordError)
        file.seek(0)
        most = 1  # the last line may lack its line end
        while chunk := file.read(chunk_bytes):
            most += chunk.count(b"\n")
        index = RecordIndex(np.empty(most, np.int64), np.empty(most, np.int64))
        file.seek(0)
        count = 0
        while lines := file.read(chunk_bytes):
            # Limited, because a file of zeros is a single line.
            lines += (rest := file.readline(_LONGEST_LINE + 1))
            if len(rest) > _LONGEST_LINE:
                raise _bad_line(path, lines, count)
            numbers = _parse_lines(path, lines, count)
            index.keys[count : count + len(numbers)] = numbers[:, 0]
            index.offsets[count : count + len(numbers)] = numbers[:, 1]
            count += len(numbers)
    return RecordIndex(index.keys[:count], index.offsets[:count])


def _parse_lines(path: Path, lines: bytes, lines_before: int) -> Int64s:
    """Return keys and offsets, int64 [m, 2], of m whole lines."""
    if b"\r" in lines:
        lines = lines.replace(b"\r\n", b"\n")
    if not lines.endswith(b"\n"):
        lines += b"\n"
    # Without the digits, one comparison at the speed of memory shows the form of every line. Only
    # then is NumPy's parser used: it accepts any white space and stops at garbage.
    separators = lines.translate(None, b"0123456789")
    count = len(separators) // 2
    if separators == b"\t\n" * count:
        numbers = np.fromstring(lines, dtype=np.int64, sep=" ")
        if len(numbers) == 2 * count and not (numbers >= 10**_DIGITS).any():
            return numbers.reshape(count, 2)
    raise _bad_line(path, lines, lines_before)


def _bad_line(path: Path, lines: bytes, lines_before: int) -> RecordError:
    """Return the error that names the first of `lines` that has another form."""
    for number, line in enumerate(lines.split(b"\n"), start=lines_before + 1):
        if not INDEX_LINE.fullmatch(line):
            return RecordError(
                f"{path}, line {number}: found {line[:60]!r}, expected key<tab>offset; {_FIX}"
            )
    raise AssertionError(f"{path}: lines of the expected form were not parsed")


def scan_index(file: RecordFile) -> RecordIndex:
    """Rebuild the index by reading the file once.

    The keys are the ids in the records' headers, as MXNet's tools write them, or 0, 1, 2 … in the
    order of the file if those are missing or not all different.
    """
    logger.info("%s has no .idx: reading the whole file once to find its records", file.path)
    offsets = file.scan()
    keys = np.empty_like(offsets)
    has_ids = True
    for rows, headers in file.headers_in_chunks(offsets):
        keys[rows] = headers.ids.view(np.int64)  # an id of 2**63 or more becomes negative
        has_ids &= bool((headers.image_sizes >= 0).all() and (keys[rows] >= 0).all())
    in_order = np.sort(keys)
    if not has_ids or (in_order[1:] == in_order[:-1]).any():
        keys = np.arange(len(offsets))
    logger.info("%s: found %d records", file.path, len(offsets))
    return RecordIndex(keys, offsets)


def _write_index(file: IO[bytes], index: RecordIndex) -> None:
    """Write the lines that MXNet reads."""
    for start in range(0, len(index.keys), _LINES_PER_WRITE):
        rows = slice(start, start + _LINES_PER_WRITE)
        numbers = np.stack([index.keys[rows], index.offsets[rows]], 1).ravel().tolist()
        file.write((b"%d\t%d\n" * (len(numbers) // 2)) % tuple(numbers))


def _check_keys(path: Path, keys: Int64s) -> None:
    if len(keys) == 0:
        raise RecordError(f"{path} is empty: expected one line for each record; {_FIX}")
    if (keys[1:] > keys[:-1]).all():
        return
    order = np.argsort(keys, kind="stable")
    repeated = order[1:][keys[order[1:]] == keys[order[:-1]]]
    if len(repeated):
        line = int(repeated.min())
        earlier = int(np.flatnonzero(keys == keys[line])[0])
        raise RecordError(
            f"{path}, line {line + 1}: key {keys[line]} is already on line {earlier + 1}: expected "
            f"every key once; {_FIX}"
        )


def _check_offsets(path: Path, index: RecordIndex, file: RecordFile) -> None:
    """Detect a truncated file and the index of another file, without reading every record."""
    outside = np.flatnonzero((index.offsets > file.size - PART.size) | (index.offsets % 4 != 0))
    if len(outside):
        row = int(outside[0])
        raise RecordError(
            f"{path}, line {row + 1}: key {index.keys[row]} has offset {index.offsets[row]} in "
            f"{file.path}, which has {file.size} bytes: expected a multiple of 4 inside the file; "
            "the .rec is truncated, or the .idx belongs to another file "
            f"({len(outside)} such lines); copy or make the pair again"
        )
    last = int(np.argmax(index.offsets))
    file.read(int(index.offsets[last]), int(index.keys[last]))
