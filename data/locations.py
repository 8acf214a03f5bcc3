"""Where data lies: the one place that turns what a user writes into files.

A location is a `Path`, or the text of a URL, which a `Path` would spoil (`s3://a` becomes `s3:/a`).
Everything that opens, stats or names files beside a data file does it through these functions.
"""

import glob
import hashlib
import os
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import BinaryIO

Location = Path | str


class LocationError(ValueError):
    """A location that leads to no file that can be read; says what was expected there."""


def as_location(text: Location) -> Location:
    """Return the location that `text` means; raises `LocationError` for a URL without a reader."""
    if "://" in str(text):
        raise LocationError(
            f"{text}: no reader for {str(text).partition('://')[0]}:// locations: expected a path; "
            "copy the data, or mount its store as a folder"
        )
    return Path(text)


def is_glob(location: Location) -> bool:
    """Return whether `location` is a pattern of several files: `train-*.rec`.

    A file or folder whose own name has such signs is itself.
    """
    return glob.has_magic(str(location)) and not Path(location).exists()


def expand(location: Location) -> Sequence[Location]:
    """Return the files that match a pattern, in the order of their names."""
    return [Path(name) for name in sorted(glob.glob(str(location), recursive=True))]


def exists(location: Location) -> bool:
    """Return whether `location` is a file."""
    return Path(location).is_file()


def beside(location: Location, suffix: str) -> Location:
    """Return the location of the same name with another suffix: `train.rec`, `train.idx`."""
    return Path(location).with_suffix(suffix)


def open_binary(location: Location) -> BinaryIO:
    """Open a file for reading."""
    return Path(location).open("rb")


def stamp(location: Location) -> str:
    """Return a text that changes when the file is written again: its size and time of change."""
    return file_stamp(os.stat(location))


def file_stamp(status: os.stat_result) -> str:
    """Return the stamp of an open file."""
    return f"{status.st_size}:{status.st_mtime_ns}"


def same_file_key(location: Location) -> Hashable:
    """Return what two locations of one file have in common, whatever links lead to it."""
    status = os.stat(location)
    return status.st_dev, status.st_ino


def cache_name(location: Location, *facts: str) -> str:
    """Return a file name for things derived from `location`: readable, and only its own."""
    whole = "\n".join([os.path.abspath(location), *facts])
    return f"{hashlib.sha256(whole.encode()).hexdigest()[:16]}-{Path(location).name}"


def default_cache_folder() -> Path:
    """Return the user's cache folder: `$XDG_CACHE_HOME/partialfc`, usually `~/.cache/partialfc`."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG standard has relative values ignored.
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "partialfc"
