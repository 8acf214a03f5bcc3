"""Where data lies: the one place that turns what a user writes into files.

A location is a `Path`, or the text of a URL, which a `Path` would spoil (`s3://a` becomes `s3:/a`).
Everything that names, compares or caches data files by their location does it here.
"""

import glob
import hashlib
import os
import tempfile
from collections.abc import Hashable
from pathlib import Path

Location = Path | str


class DatasetError(ValueError):
    """A location that holds no usable set of images; says what was found, and the mend."""


def is_url(location: Location) -> bool:
    """Return whether `location` is a URL, as `s3://bucket/train.rec`, and no path."""
    return isinstance(location, str) and "://" in location


def is_glob(location: Location) -> bool:
    """Return whether `location` is a pattern of several files: `train-*.rec`.

    A file or folder whose own name has such signs is itself. In a URL only `*` makes a pattern.
    """
    if is_url(location):
        return "*" in str(location)
    return glob.has_magic(str(location)) and not Path(location).exists()


def expand(location: Location) -> list[Path]:
    """Return the files that match a pattern, in the order of their names.

    Raises `DatasetError` for a URL: a web server has no list of its files.
    """
    if is_url(location):
        raise DatasetError(
            f"{location}: patterns of URLs are not looked up: expected the files one by one; list "
            "them in data.train, with data.merge: by_name if they are shards of one dataset"
        )
    return [Path(name) for name in sorted(glob.glob(str(location), recursive=True))]


def folder_of(location: Location) -> Path:
    """Return the folder that holds a file or the files of a pattern; a folder is its own.

    Raises `DatasetError` for a URL, which has no folder on this machine.
    """
    if is_url(location):
        raise DatasetError(f"{location} is in no folder of this machine: state one")
    path = Path(location)
    path = path if path.is_dir() else path.parent
    while glob.has_magic(str(path)) and not path.exists():
        path = path.parent
    return path


def beside(location: Location, suffix: str) -> Location:
    """Return the location of the same name with another suffix: `train.rec`, `train.idx`."""
    if is_url(location):
        return str(location).removesuffix(".rec") + suffix
    return Path(location).with_suffix(suffix)


def places_beside(location: Location, otherwise: Path) -> list[Path]:
    """Return where a file for `location` can be tried to be written: there, and in a cache.

    Nothing is written beside remote files.
    """
    return [otherwise] if is_url(location) else [Path(location), otherwise]


def stamp(status: os.stat_result) -> str:
    """Return a text that changes when a file is written again: its size and time of change."""
    return f"{status.st_size}:{status.st_mtime_ns}"


def same_file_key(location: Location) -> Hashable:
    """Return what two locations of one file have in common, whatever links lead to it."""
    if is_url(location):
        return location
    status = os.stat(location)
    return status.st_dev, status.st_ino


def cache_name(location: Location, *facts: str) -> str:
    """Return a file name for things derived from `location`: readable, and only its own."""
    place = str(location) if is_url(location) else os.path.abspath(location)
    whole = "\n".join([place, *facts])
    digest = hashlib.sha256(whole.encode()).hexdigest()[:16]
    return f"{digest}-{Path(location).name[-80:]}"  # file systems end names at 255 bytes


def default_cache_folder() -> Path:
    """Return the user's cache folder: `$XDG_CACHE_HOME/partialfc`, usually `~/.cache/partialfc`.

    A user without a home, as in a container that runs under any number, has one of that number
    among the temporary files.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(base):  # the XDG standard has relative values ignored
        return Path(base) / "partialfc"
    try:
        return Path.home() / ".cache" / "partialfc"
    except RuntimeError:  # neither HOME nor an entry in the system's list of users
        return Path(tempfile.gettempdir()) / f"partialfc-{os.getuid()}"
