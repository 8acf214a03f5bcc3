"""Where data is: the one place that interprets the locations that users write.

A location is a `Path`, or the text of a URL, which a `Path` would change: `s3://a` becomes `s3:/a`.
Everything that names, compares or caches data files by their location does so here.
"""

import glob
import hashlib
import os
import re
import tempfile
from collections.abc import Hashable, Sequence
from enum import Enum
from pathlib import Path
from typing import Final

from recognition.redaction import redact as redact

Location = Path | str

LIST_SUFFIXES: Final = (".lst", ".csv", ".tsv", ".txt")
_FILE_SUFFIXES: Final = (".rec", *LIST_SUFFIXES)


class DatasetError(ValueError):
    """A location without a usable set of images; says what was found and how to fix it."""

    def __init__(self, message: str) -> None:
        super().__init__(redact(message))


class LocationKind(Enum):
    """What a location is."""

    URL = "url"  # one remote .rec file
    RECORDS = "records"  # a .rec file, a pattern of files, or a folder with .rec files
    LIST = "list"  # a list of images
    FOLDER = "folder"  # a folder without .rec files


def location_kind(location: Location) -> LocationKind | None:
    """Return what `location` is, None if it is nothing that images can be read from."""
    if is_glob(location):
        return LocationKind.RECORDS
    if is_url(location):
        return LocationKind.URL
    path = Path(location)  # whose own methods raise for a name that is too long
    if os.path.isdir(path):
        return LocationKind.RECORDS if any(path.glob("*.rec")) else LocationKind.FOLDER
    is_file = os.path.isfile(path)
    if is_file and path.suffix == ".rec":
        return LocationKind.RECORDS
    if is_file and path.suffix.lower() in LIST_SUFFIXES:
        return LocationKind.LIST
    return None


def is_url(location: Location) -> bool:
    """Return whether `location` is a URL, as `s3://bucket/train.rec`, and not a path."""
    return isinstance(location, str) and "://" in location


def shown(location: Location) -> str:
    """Return `location` for messages and for what is written down: a URL without its secrets."""
    return redact(location) if isinstance(location, str) and is_url(location) else str(location)


def short_names(locations: Sequence[str]) -> list[str]:
    """Return a short name of each location, as `shown`, for logs: letters, digits, `_` and `-`.

    It is the shortest end of the path with which all differ: `/data/ms1mv3` and `/data/web` are
    `ms1mv3` and `web`, `a/train.rec` and `b/train.rec` are `a_train` and `b_train`. A number is
    added where paths do not differ. A folder of datasets may move without a change of the names.
    """
    paths = []
    for location in locations:
        path = _split_query(location)[0] if is_url(location) else os.path.abspath(location)
        path = str(Path(path).with_suffix("")) if path.endswith(_FILE_SUFFIXES) else path
        words = [re.sub(r"[^\w-]+", "_", part).strip("_-") for part in path.split("/")]
        paths.append([word for word in words if word])
    for depth in range(1, max(map(len, paths), default=0) + 1):
        names = ["_".join(words[-depth:]) for words in paths]
        if len(set(names)) == len(names) and all(names):
            return names
    return ["_".join([*words[-1:], str(number)]) for number, words in enumerate(paths, start=1)]


def is_glob(location: Location) -> bool:
    """Return whether `location` is a pattern of several files: `train-*.rec`.

    An existing file or folder with such characters in its name is not a pattern. In a URL only `*`
    makes a pattern, and not in its query.
    """
    if is_url(location):
        return "*" in _split_query(str(location))[0]
    return glob.has_magic(str(location)) and not os.path.exists(location)


def expand(location: Location) -> list[Path]:
    """Return the files that match a pattern, sorted by name.

    Raises `DatasetError` for a URL: a web server has no list of its files.
    """
    if is_url(location):
        raise DatasetError(
            f"{location}: patterns of URLs are not supported: expected single files; list them in "
            "data.train, with data.merge: by_name if they are shards of one dataset"
        )
    return [Path(name) for name in sorted(glob.glob(str(location), recursive=True))]


def record_url(url: str) -> str:
    """Return the URL of the `.rec` file that the URL of a file or of a folder stands for."""
    address, query = _split_query(url)
    if url.endswith(".rec") or address.endswith(".rec"):
        return url
    return f"{address.rstrip('/')}/train.rec{query}"


def folder_of(location: Location) -> Path:
    """Return the folder of a file or of the files of a pattern; for a folder, the folder itself.

    Raises `DatasetError` for a URL, which has no folder on this machine.
    """
    if is_url(location):
        raise DatasetError(f"{location} is a URL: expected a location on this machine; state one")
    path = Path(location)
    path = path if path.is_dir() else path.parent
    while glob.has_magic(str(path)) and not path.exists():
        path = path.parent
    return path


def sibling(location: Location, suffix: str) -> Location:
    """Return the location of the same name with another suffix: `train.rec`, `train.idx`."""
    if is_url(location):
        url = str(location)
        address, query = _split_query(url)
        if query and not address.endswith(".rec"):  # https://host/get?file=train.rec
            return url.removesuffix(".rec") + suffix
        return address.removesuffix(".rec") + suffix + query
    return Path(location).with_suffix(suffix)


def storage_paths(location: Location, cache_folder: Path | None, *metadata: str) -> list[Path]:
    """Return where to store a file that belongs at `location`, in the order of preference.

    That is `location` itself, unless it is a URL, and a path in `cache_folder`, by default the
    user's. The latter is readable, and unique for `location` and `metadata`; of a URL's user and
    query it says nothing, so that two URLs with different ones share it.
    """
    full = shown(location) if is_url(location) else os.path.abspath(location)
    digest = hashlib.sha256("\n".join([full, *metadata]).encode()).hexdigest()[:16]
    readable = Path(_split_query(full)[0] if is_url(location) else full).name
    name = f"{digest}-{readable[-80:]}"  # file systems limit names to 255 bytes
    cached = (cache_folder or default_cache_folder()) / name
    return [cached] if is_url(location) else [Path(location), cached]


def fingerprint(status: os.stat_result) -> str:
    """Return a text that changes when a file is written again: its size and modification time."""
    return f"{status.st_size}:{status.st_mtime_ns}"


def same_file_key(location: Location) -> Hashable:
    """Return a key that is equal for two locations of one file, whatever links lead to it."""
    if is_url(location):
        return location
    status = os.stat(location)
    return status.st_dev, status.st_ino


def default_cache_folder() -> Path:
    """Return the user's cache folder: `$XDG_CACHE_HOME/partialfc`, usually `~/.cache/partialfc`.

    For a user without a home, as in a container with an arbitrary user id, it is a folder among
    the temporary files, named by that id.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(base):  # the XDG standard says to ignore relative values
        return Path(base) / "partialfc"
    try:
        return Path.home() / ".cache" / "partialfc"
    except RuntimeError:  # neither HOME nor an entry in the system's list of users
        return Path(tempfile.gettempdir()) / f"partialfc-{os.getuid()}"


def _split_query(url: str) -> tuple[str, str]:
    """Return a URL's part before its query, and the query with its question mark."""
    address, mark, query = url.partition("?")
    return address, mark + query
