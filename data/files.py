"""Files that appear only when they are whole, output folders, and locks among processes."""

import json
import mmap
import os
import re
import secrets
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from errno import EAGAIN, EINVAL
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout

_LFS_POINTER = re.compile(rb"version https://git-lfs\S*\n(?:(?:.*\n)*?size (\d+))?")


class WriteError(ValueError):
    """A file that cannot be written, for example because the disk is full."""


class OutputFolderError(ValueError):
    """An output folder that already holds something."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an `OSError` from writing to `path` into a `WriteError` that names it."""
    try:
        yield
    except OSError as error:
        raise WriteError(
            f"{path} cannot be written: {error.strerror or error}; make room on its disk or choose "
            "another, and run again"
        ) from error


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Yield a new file, open for writing and reading, that replaces `path` when the block ends.

    Readers see the old content or the whole new one, also when several processes write at once
    and when the power fails. After an exception `path` is as it was. Raises `OSError` as writing
    does; see `writing`.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    try:
        with partial.open("x+b") as file:
            yield file
            sync_file(file)
        publish(partial, path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()  # frees what may be the last space on the disk
        raise


def publish(partial: Path, path: Path) -> None:
    """Rename a file or folder, whose content is on the disk, and wait until the name is too.

    Replaces a file, or an empty folder, at `path`. Without the order of the two waits, the name
    could survive a power cut that the content does not.
    """
    partial.replace(path)
    sync_folder(path.parent)


def sync_file(file: IO[bytes]) -> None:
    """Wait until everything written to `file` is on the disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the names in `folder` are on the disk, on systems that can do so."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != EINVAL:  # some network file systems cannot do it for folders
            raise
    finally:
        os.close(handle)


def make_output_folder(folder: Path) -> None:
    """Create `folder`; raise `OutputFolderError` if it exists and is not an empty folder."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputFolderError(
            f"{folder} exists and is not an empty folder: choose another, or remove it"
        )
    folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def file_lock(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock `path` among the processes of this machine.

    The system releases it if this process dies; the file itself stays. Raises `BlockingIOError`
    at once if another process holds it and `wait` is false.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout as error:
        raise BlockingIOError(EAGAIN, "another process holds the lock", str(path)) from error
    try:
        yield
    finally:
        lock.release()


def refuse_lfs_pointer(location: Path | str, start: bytes, error: type[ValueError]) -> None:
    """Raise `error` if `start`, the first bytes at `location`, are those of a Git LFS pointer."""
    pointer = _LFS_POINTER.match(start)
    if pointer:
        size = f" to a file of {int(pointer[1]):,} bytes" if pointer[1] else ""
        raise error(
            f"{location}: found a Git LFS pointer{size}, expected the data itself; run "
            "`git lfs pull` in its repository"
        )


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
