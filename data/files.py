"""Files that appear only when they are whole, output folders, and locks among processes."""

import os
import re
import secrets
import shutil
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


def is_free(folder: Path) -> bool:
    """Return whether `folder` can be made: it does not exist, or is empty."""
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))


def make_output_folder(folder: Path) -> None:
    """Create `folder`; raise `OutputFolderError` if it exists and is not an empty folder."""
    if not is_free(folder):
        raise OutputFolderError(
            f"{folder} exists and is not an empty folder: choose another, or remove it"
        )
    folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a new folder that becomes `folder` when the block ends; after an exception it is gone.

    Raises `OutputFolderError` if `folder` exists and is not empty, and if what a killed process
    left is in the way.
    """
    partial = folder.with_name(folder.name + ".partial")
    for path, is_usable in ((folder, is_free(folder)), (partial, not partial.exists())):
        if not is_usable:
            raise OutputFolderError(
                f"{path} exists, from an earlier run or one that is still working: choose another "
                "output, or delete it"
            )
    with writing(partial):
        partial.mkdir(parents=True)
    try:
        yield partial
        with writing(folder):
            publish(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_space(folder: Path, needed: int) -> None:
    """Raise `WriteError` if the disk of `folder`, which may not exist yet, lacks `needed` bytes."""
    parents = (folder.absolute(), *folder.absolute().parents)
    free = shutil.disk_usage(next(path for path in parents if path.exists())).free
    if free < needed:
        raise WriteError(
            f"{folder}: {needed:,} bytes are needed and {free:,} are free on its disk; make room "
            "or choose another"
        )


@contextmanager
def file_lock(path: Path, *, wait: bool = True, mode: int = 0o644) -> Iterator[None]:
    """Hold the lock `path`, a file with the permissions `mode`, among the processes of a machine.

    The system releases it if this process dies; the file itself stays. Raises `BlockingIOError`
    at once if another process holds it and `wait` is false.
    """
    lock = FileLock(path, mode=mode)
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
