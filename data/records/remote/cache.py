"""What is kept on this machine of remote files: their indexes, and record headers once read.

Each content of each file has a folder of its own, named by the URL and by what the store said of
the content, so that nothing stale can be found; a changed file's old folder is removed. The
processes of a machine share it: one fetches, the others wait for it and read.
"""

import hashlib
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from data.files import atomic_write, file_lock
from data.records.remote.ranges import RemoteError, RemoteObject


def entry_folder(cache: Path, source: RemoteObject) -> Path:
    """Return the folder for this content of `source`, made if need be.

    Raises `RemoteError` where it cannot be made.
    """
    readable = re.sub(r"[^\w.-]+", "_", source.url)[-100:]
    parent = cache / f"{readable}-{_digest(source.url.encode())}"
    folder = parent / _digest(repr(sorted(source.version.items())).encode())
    if not folder.is_dir():
        for stale in parent.glob("*/"):
            if stale != folder:  # which another process may have made, and be using, by now
                shutil.rmtree(stale, ignore_errors=True)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RemoteError(
                f"{folder}, which is to keep what is known of {source.url}, cannot be made "
                f"({error}): set data.index_cache to a folder that takes files"
            ) from error
    return folder


def lock(folder: Path) -> AbstractContextManager[None]:
    """Return a lock among the processes of this machine; the system frees it if its owner dies."""
    return file_lock(folder / "lock")


def download(source: RemoteObject, path: Path, spans: Iterable[tuple[int, int]]) -> None:
    """Write the bytes of `spans`, one after the other, to `path`, which appears when whole."""
    with _appearing(path) as file:
        file.writelines(source.stream(spans))


class HeaderTable:
    """The first words of records that were read before, on disk in segments of whole questions.

    Args:
        folder: where segments are; see `entry_folder`.
        width: number of uint32 words kept of each record.
    """

    def __init__(self, folder: Path, width: int) -> None:
        self.folder = folder
        self.width = width

    def add(self, offsets: npt.NDArray[np.int64], words: npt.NDArray[np.uint32]) -> None:
        """Keep `words`, uint32 [width, n], of the records at `offsets`, int64 [n]."""
        order = np.argsort(offsets, kind="stable")
        offsets = offsets[order]
        name = _digest(offsets.tobytes())
        # The offsets last: a segment is looked for by them.
        _save(self.folder / f"{name}.words.npy", words[:, order])
        _save(self.folder / f"{name}.offsets.npy", offsets)

    def look_up(
        self, offsets: npt.NDArray[np.int64], words: npt.NDArray[np.uint32]
    ) -> npt.NDArray[np.intp]:
        """Fill in the known columns of `words`, uint32 [width, n]; return the unknown rows."""
        unknown = np.arange(len(offsets))
        for path in sorted(self.folder.glob("*.offsets.npy")):
            if not len(unknown):
                break
            known = np.load(path, mmap_mode="r")
            kept = np.load(path.with_name(path.name.replace("offsets", "words")), mmap_mode="r")
            wanted = offsets[unknown]
            rows = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
            found = known[rows] == wanted
            for target, column in zip(words, kept, strict=True):
                target[unknown[found]] = column[rows[found]]
            unknown = unknown[~found]
        return unknown


def save_array(path: Path, values: npt.NDArray[np.int64]) -> None:
    """Write an array that appears under its name when it is whole."""
    _save(path, values)


def _save(path: Path, values: npt.NDArray[np.generic]) -> None:
    with _appearing(path) as file:
        np.save(file, values)


@contextmanager
def _appearing(path: Path) -> Iterator[IO[bytes]]:
    """Yield a file that gets its name when it is whole; `RemoteError` if it cannot be written."""
    try:
        with atomic_write(path) as file:
            yield file
    except OSError as error:
        raise RemoteError(
            f"{path}, a copy of what was read of a remote file, cannot be written "
            f"({error.strerror or error}): make room on its disk, or set data.index_cache to "
            "another folder"
        ) from error


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
