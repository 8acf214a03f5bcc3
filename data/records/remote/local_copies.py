"""Keeps what was read of remote files on this machine.

Each state of each file has a folder of its own, named by the URL and by what the store said of the
content, so nothing stale can be found; the folder of an earlier state is removed. fsspec's file
cache is not used: it has no lock, so that every process of a machine would download the same, and
it reports a full disk as whatever error the system gives.
"""

import hashlib
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from data.files import atomic_write
from data.records.remote.ranges import RemoteError, RemoteObject


def local_folder(cache: Path, source: RemoteObject) -> Path:
    """Return the folder in `cache` for this state of `source`; create it if necessary.

    Raises `RemoteError` if it cannot be created.
    """
    address, _, query = source.shown.partition("?")
    readable = re.sub(r"[^\w.-]+", "_", address)[-100:]
    parent = cache / f"{readable}-{_digest(source.shown)}"
    folder = parent / _digest(repr(sorted(source.version.items())))
    if not folder.is_dir():
        for stale in parent.glob("*/"):
            # It may be another process' of now or, if URLs differ in their queries, another file's.
            if stale != folder and not query:
                shutil.rmtree(stale, ignore_errors=True)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RemoteError(
                f"{folder}, for local copies of parts of {source.shown}, cannot be created "
                f"({error}): set data.index_cache to a writable folder"
            ) from error
    return folder


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


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
