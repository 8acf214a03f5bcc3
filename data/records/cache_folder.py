"""Folders of caches: whose content is taken, and how a file in them is opened.

The user's own, which `default_cache_folder` chooses without asking, may be among the temporary
files, where others can plant a folder of its name or a link: it must belong to this user alone.
A folder that somebody names in `data.index_cache` may be a team's, and whoever may write there is
trusted not to swap folders. What a file says is checked by its reader in both.
"""

import errno
import logging
import os
import stat
from pathlib import Path
from typing import IO, Final

from data.records.locations import default_cache_folder

logger = logging.getLogger(__name__)

_WRITABLE_BY_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH
# What a folder inside one for everybody, as /tmp, does not take over from that.
_OF_ALL: Final = stat.S_ISVTX | _WRITABLE_BY_OTHERS


def make_cache_folder(folder: Path) -> None:
    """Create `folder` if it does not exist, the user's own with mode 0700.

    Raises `OSError` as `check_cache_folder`, and if it cannot be created.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700 if is_own(folder) else 0o777, exist_ok=True)
    check_cache_folder(folder)


def make_inner_folder(folder: Path) -> None:
    """Create `folder` in a cache folder, with the mode of that, so that a team can share it.

    Raises `OSError` if it cannot be created, or is a link, which would lead writes elsewhere.
    """
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        if not stat.S_ISDIR(folder.lstat().st_mode):
            raise _refusal(folder, "it is a link or a file, where a folder was expected") from None
    else:
        mode = stat.S_IMODE(folder.parent.stat().st_mode)
        folder.chmod(mode & ~_OF_ALL if mode & stat.S_ISVTX else mode)


def check_cache_folder(folder: Path) -> None:
    """Refuse the user's own cache folder, of which `folder` is a part, if others may write there.

    Raises `PermissionError`, or `FileNotFoundError` if there is none.
    """
    own = default_cache_folder()
    if not is_own(folder) or os.name != "posix":
        return
    status = own.stat()
    for owner in (own.lstat().st_uid, status.st_uid):  # of a link, and of what it leads to
        if owner != os.geteuid():
            raise _refusal(own, f"{own} belongs to user {owner}, expected user {os.geteuid()}")
    if status.st_mode & _WRITABLE_BY_OTHERS:
        mode = stat.S_IMODE(status.st_mode)
        raise _refusal(own, f"{own} has mode {mode:o}: expected 700; delete it, as others may")


def open_cached(path: Path, *, follow: bool = False) -> IO[bytes]:
    """Open a file of a cache for reading; a link only if `follow`, as next to the data.

    Raises `OSError` for one in a folder that `check_cache_folder` refuses, and for what is no file:
    a pipe would make the reader wait forever.
    """
    check_cache_folder(path.parent)
    flags = os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW) if os.name == "posix" else 0
    handle = os.open(path, os.O_RDONLY | flags)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise _refusal(path, "it is no file")
    return os.fdopen(handle, "rb")


def is_cached(path: Path) -> bool:
    """Return whether `open_cached` opens `path`; log why what is there cannot be used."""
    try:
        open_cached(path).close()
    except FileNotFoundError:
        return False
    except OSError as error:
        logger.warning("%s cannot be used (%s): making it again", path, error.strerror)
        return False
    return True


def is_own(path: Path) -> bool:
    """Return whether `path` is the user's own cache folder, or in it."""
    own = default_cache_folder()
    return own == path or own in path.parents


def _refusal(path: Path, reason: str) -> PermissionError:
    return PermissionError(errno.EACCES, reason, str(path))
