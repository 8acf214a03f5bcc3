"""Opens a `.rec` file at a path or a URL."""

from pathlib import Path

from data.records.format import RecordError
from data.records.locations import Location, is_url
from data.records.reader import RecordFile


def open_record_file(location: Location, *, cache_folder: Path | None = None) -> RecordFile:
    """Return the `.rec` file at a path, or at a URL that fsspec knows.

    `cache_folder` is for the local copies of parts of remote files; by default the user's. Raises
    as `RecordFile` does, and `data.records.remote.ranges.RemoteError` for a URL that cannot be
    read.
    """
    if not is_url(location):
        return RecordFile(Path(location))
    try:
        from data.records.remote.reader import RemoteRecordFile
    except ImportError as error:
        raise RecordError(
            f"{location}: URLs need packages that are missing ({error}): pip install -e '.[remote]'"
        ) from error
    return RemoteRecordFile(str(location), cache_folder=cache_folder)
