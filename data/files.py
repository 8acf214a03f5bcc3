"""Files that appear only when they are whole, output folders, and locks among processes."""

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import EAGAIN, EINVAL
from pathlib import Path
from typing import IO

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

    Replaces a file, or an empty folder, at `path`. The content must be on the disk first: otherwise
    a power cut could leave the name without it.
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
