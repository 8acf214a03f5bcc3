"""Keeps what was read of remote files on this machine.

Each state of each file has a folder of its own, named by the URL and by what the store said of the
content, so nothing stale can be found; the folder of an earlier state is removed. fsspec's file
cache is not used: it has no lock, so that every process of a machine would download the same, and
it reports a full disk as whatever error the system gives.
"""

import hashlib
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from data.files import atomic_write, file_lock
from data.records.cache_folder import make_cache_folder, make_inner_folder
from data.records.remote.ranges import RemoteError, RemoteObject


def local_folder(cache: Path, source: RemoteObject) -> Path:
    """Return the folder in `cache` for this state of `source`; create it if necessary.

    Raises `RemoteError` if it cannot be created.
    """
    address, _, query = source.shown.partition("?")
    readable = re.sub(r"[^\w.-]+", "_", address)[-100:]
    parent = cache / f"{readable}-{_digest(source.shown)}"
    folder = parent / _digest(repr(sorted(source.version.items())))
    try:
        make_cache_folder(cache)
        make_inner_folder(parent)  # refuses a link before anything behind it is removed
        if not folder.is_dir():
            _remove_stale(parent, folder, query)
        make_inner_folder(folder)
    except OSError as error:
        raise RemoteError(
            f"{folder}, for local copies of parts of {source.shown}, cannot be used ({error}): set "
            "data.index_cache to a folder that you may write to"
        ) from error
    return folder


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a `local_folder`; raise `RemoteError` if there cannot be one."""
    with ExitStack() as stack:
        try:
            mode = stat.S_IMODE(folder.stat().st_mode) & 0o666  # of a team's folder, for the team
            stack.enter_context(file_lock(folder / "lock", mode=mode))
        except OSError as error:
            raise RemoteError(
                f"{folder / 'lock'} cannot be used ({error.strerror or error}): set "
                "data.index_cache to another folder"
            ) from error
        yield


@contextmanager
def local_copy(path: Path) -> Iterator[IO[bytes]]:
    """Yield a file as `atomic_write` does; raise `RemoteError` if it cannot be written."""
    try:
        with atomic_write(path) as file:
            yield file
    except OSError as error:
        raise RemoteError(
            f"{path}, a local copy of a part of a remote file, cannot be written "
            f"({error.strerror or error}): make room on its disk, or set data.index_cache to "
            "another folder"
        ) from error


def _remove_stale(parent: Path, folder: Path, query: str) -> None:
    """Remove the folders of other states, if they are of the same file.

    That is so unless the URL has a query: of two URLs that differ there only, `parent` is one.
    """
    for stale in parent.iterdir() if not query else ():
        if stale != folder:  # which another process may have created by now
            shutil.rmtree(stale, ignore_errors=True)  # never follows a link


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
