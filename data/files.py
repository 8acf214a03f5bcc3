"""Arrays in one file that processes map and share instead of holding copies.

    magic, 8 bytes | uint32 CRC-32 of the head | uint32 size of the head
    head: JSON {"facts": …, "arrays": [[name, dtype, length], …], "checksum": CRC-32 of the arrays},
        filled up so that what follows starts at a multiple of 64 bytes
    the arrays one after another, each filled up to 64 bytes

All numbers are little-endian. The checksums find what sizes cannot: pages of zeros after a power
cut, a byte that flipped. Reading 200 MB for it takes a tenth of a second.
"""

import json
import mmap
import os
import secrets
import struct
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

MAGIC = b"arrays\x00\x01"  # the last byte is the version of this layout
_START = struct.Struct("<8sII")
_ALIGNMENT = 64


class ArrayFileError(ValueError):
    """A file of arrays that is damaged, or none; a cache is then made again."""


class ArrayFile:
    """The arrays of a file, mapped and read-only.

    A pickle holds the path and the arrays' checksum alone: the process that gets it maps the same
    memory. It raises `ArrayFileError` if the path has other arrays by then.

    Attributes:
        path: of the file.
        facts: what was written with the arrays; JSON values.
        arrays: by name, each one-dimensional.
    """

    def __init__(self, path: Path, *, known_checksum: int | None = None) -> None:
        self.path = path
        with path.open("rb") as file:
            head = _read_head(path, file)
            stop = file.tell()
            if known_checksum is None:
                _check_arrays(path, file, head["checksum"])
            elif head["checksum"] != known_checksum:
                raise ArrayFileError(
                    f"{path} was written again while in use: its checksum is "
                    f"{head['checksum']:#010x}, expected {known_checksum:#010x}; start again"
                )
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._checksum: int = head["checksum"]
        self.facts: dict[str, Any] = head["facts"]
        self.arrays: dict[str, Array] = {}
        for name, dtype, length in head["arrays"]:
            array = np.frombuffer(mapping, np.dtype(dtype), length, stop)
            self.arrays[name] = array
            stop += array.nbytes + -array.nbytes % _ALIGNMENT

    def __reduce__(self) -> tuple[Callable[[Path, int], "ArrayFile"], tuple[Path, int]]:
        return _reopen, (self.path, self._checksum)


def array_file_writer(
    arrays: Mapping[str, Array], facts: Mapping[str, Any]
) -> Callable[[IO[bytes]], None]:
    """Return what writes a file of one-dimensional arrays and of `facts`, which become JSON."""

    def write(file: IO[bytes]) -> None:
        blocks: list[memoryview | bytes] = []
        for array in arrays.values():
            data = np.ascontiguousarray(array).view(np.uint8).data
            blocks += [data, bytes(-array.nbytes % _ALIGNMENT)]
        checksum = 0
        for block in blocks:
            checksum = zlib.crc32(block, checksum)
        listed = [[name, array.dtype.str, len(array)] for name, array in arrays.items()]
        head = json.dumps({"facts": facts, "arrays": listed, "checksum": checksum}).encode()
        head += b" " * (-(len(head) + _START.size) % _ALIGNMENT)
        file.write(_START.pack(MAGIC, zlib.crc32(head), len(head)) + head)
        for block in blocks:
            file.write(block)

    return write


def write_atomically(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Have `write` fill a temporary file beside `path`, which takes the name when it is whole.

    So the file appears whole or not at all, also when several processes write it at once, and
    when the power fails: without waiting for the disk the name could be there before the content.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    try:
        with temporary.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def _reopen(path: Path, checksum: int) -> ArrayFile:
    return ArrayFile(path, known_checksum=checksum)


def _read_head(path: Path, file: IO[bytes]) -> dict[str, Any]:
    start = file.read(_START.size)
    if len(start) < _START.size or start[: len(MAGIC)] != MAGIC:
        raise ArrayFileError(f"{path} starts with {start[:8]!r}: expected {MAGIC!r}")
    _, stated, size = _START.unpack(start)
    head = file.read(size)
    _compare(path, zlib.crc32(head), stated)
    values: dict[str, Any] = json.loads(head)
    return values


def _check_arrays(path: Path, file: IO[bytes], stated: int) -> None:
    found = 0
    while chunk := file.read(1 << 22):
        found = zlib.crc32(chunk, found)
    _compare(path, found, stated)


def _compare(path: Path, found: int, stated: int) -> None:
    if found != stated:
        raise ArrayFileError(
            f"{path} is damaged: its checksum is {found:#010x}, not {stated:#010x}"
        )
