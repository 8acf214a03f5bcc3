"""`run.json`: what a checkpoint holds, and how to tell that every byte of it is what was saved.

It lists each file with its size and hash, and its last line is a checksum of itself. The hash is
XXH3 with 128 bits: it finds every kind of damage at the speed of memory. It is not a signature:
who can write the folder can write the hash, so the readers of the files trust nothing either.
"""

import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import xxhash

FORMAT = 2
RAW_WEIGHTS, AVERAGED_WEIGHTS = "backbone.pt", "backbone_ema.pt"
WEIGHTS = {"raw": RAW_WEIGHTS, "ema": AVERAGED_WEIGHTS}  # by the names that users give them
_FILE = re.compile(r"backbone\.pt|backbone_ema\.pt|state/\.metadata|state/__\d+_\d+\.distcp")
_MAX_BYTES = 1 << 26  # of run.json; it takes some kilobytes
_CHUNK_BYTES = 1 << 22


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, or belongs to another run."""


@dataclass(frozen=True)
class FileDigest:
    """The size and the hash of a file."""

    bytes: int
    xxh3: str  # XXH3, 128 bits, as hexadecimal digits


class DigestingFile:
    """A new file, open for writing, that hashes what is written to it.

    Only what `torch.save` needs. Keeps the first `OSError` of a write: torch's writer of archives
    would hide it behind a complaint about positions.
    """

    def __init__(self, path: Path) -> None:
        # Opened exclusively: a link that somebody planted here is not followed.
        self._file = path.open("xb")
        self._hash = xxhash.xxh3_128()
        self.bytes = 0
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write and hash any buffer of bytes."""
        try:
            count = self._file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise
        self._hash.update(data)
        self.bytes += count
        return count

    def tell(self) -> int:
        """Return the number of bytes written so far."""
        return self.bytes

    def flush(self) -> None:
        """Do nothing: closing the file waits for the disk."""

    def close(self) -> None:
        """Close the file when everything is on disk; it may be closed already."""
        if self._file.closed:
            return
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        except OSError as error:
            self.error = self.error or error
            with suppress(OSError):
                self._file.close()  # tries to write again what it has kept
            raise

    def digest(self) -> FileDigest:
        """Return size and hash of what was written."""
        return FileDigest(self.bytes, self._hash.hexdigest())


@contextmanager
def digesting(path: Path) -> Iterator[DigestingFile]:
    """Yield a new file at `path`, on disk when the block ends.

    Raises `OSError` when the disk does, even where the block raised something else because of it.
    """
    file = DigestingFile(path)
    try:
        try:
            yield file
        finally:
            file.close()
    except Exception:
        if file.error is not None:
            raise file.error from None
        raise


def write_metadata(
    folder: Path, metadata: Mapping[str, Any], files: Mapping[str, FileDigest]
) -> None:
    """Write `run.json`, with the digests of the files that are in `folder` already."""
    listed = {name: vars(digest) for name, digest in sorted(files.items())}
    content = {"format": FORMAT, **metadata, "files": listed}
    content["checksum"] = _checksum(content)
    with digesting(folder / "run.json") as stream:
        stream.write(json.dumps(content, indent=1).encode())


def read_metadata(folder: Path) -> dict[str, Any]:
    """Return the content of `run.json`.

    Raises `CheckpointError` when it cannot be read, is not what was written, or is of another
    format.
    """
    file = folder / "run.json"
    try:
        with open_regular(file) as stream:
            data = stream.read(_MAX_BYTES)
        content = json.loads(data)
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: cannot be read: {error}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(
            f"{file}: found checkpoint format {found!r}, expected {FORMAT}; continue it with the "
            "version that wrote it, or start a new run from its backbone.pt with init_from"
        )
    try:
        is_whole = content.pop("checksum", None) == _checksum(content)
    except RecursionError:
        is_whole = False
    if not is_whole:
        raise CheckpointError(
            f"{file}: its checksum is not that of its content: it was damaged or edited"
        )
    return content


def digests(folder: Path, metadata: Mapping[str, Any]) -> dict[str, FileDigest]:
    """Return the digests that the metadata of `folder` states.

    Raises `CheckpointError` for a list that no save wrote: every checkpoint has a `backbone.pt`,
    and no name leads out of the folder.
    """
    try:
        listed = metadata["files"]
        found = {
            name: FileDigest(int(entry["bytes"]), str(entry["xxh3"]))
            for name, entry in listed.items()
            if _FILE.fullmatch(name)
        }
        if len(found) < len(listed) or "backbone.pt" not in found:
            raise ValueError(", ".join(sorted(set(listed) - set(found))) or "no backbone.pt")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{folder / 'run.json'}: the list of files is not one that a save wrote: {error!r:.200}"
        ) from None
    return found


def damage(folder: Path, name: str, expected: FileDigest, *, read: bool) -> str | None:
    """Return what is wrong with a file of a checkpoint, or None.

    Compares its size, and with `read` also its hash.
    """
    try:
        with open_regular(folder / name) as stream:
            size = os.fstat(stream.fileno()).st_size
            if size != expected.bytes:
                return f"{name} has {size:,} bytes, {expected.bytes:,} were saved"
            if read and _hash(stream) != expected.xxh3:
                return f"{name} is not what was saved: its hash differs"
    except OSError as error:
        return f"{name} cannot be read: {error.strerror or error}"
    return None


def open_regular(path: Path) -> IO[bytes]:
    """Open a file for reading, unless it is a link, a pipe or a device: no save writes these."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    stream = os.fdopen(os.open(path, flags), "rb")
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise OSError(f"{path.name} is not a regular file")
    return stream


def _hash(stream: IO[bytes]) -> str:
    state, buffer = xxhash.xxh3_128(), memoryview(bytearray(_CHUNK_BYTES))
    while count := stream.readinto(buffer):  # type: ignore[attr-defined]
        state.update(buffer[:count])
    return state.hexdigest()


def _checksum(content: Mapping[str, Any]) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(content, sort_keys=True).encode())
