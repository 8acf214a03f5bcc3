"""Tensors as `torch.save` writes them: a zip archive of which one entry is the tensor's bytes."""

import io
import os
import re
import struct
import zipfile
from typing import IO, Any

from recognition.checkpoint.manifest import CheckpointError

_HEADER = struct.Struct("<26x2H")  # of an entry; it ends with the lengths of a name and of more


def view(file: IO[bytes], start: int, length: int) -> IO[bytes]:
    """Return bytes `[start, start + length)` of a file as a file."""
    return io.BufferedReader(_Part(file, start, length))


def find_data(archive: IO[bytes], name: str) -> tuple[int, int]:
    """Return where the bytes of an archive's only tensor start, and how many they are.

    Raises `CheckpointError`, which says `name`, if it may take more memory than the file is long.
    """
    with zipfile.ZipFile(archive) as opened:
        entries = opened.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise CheckpointError(f"{name}: a compressed tensor found, which no save writes")
    found = [entry for entry in entries if re.fullmatch(r"[^/]+/data/0", entry.filename)]
    if len(found) != 1:
        raise CheckpointError(f"{name}: an archive with {len(found)} tensors found, expected 1")
    archive.seek(found[0].header_offset)
    names = sum(_HEADER.unpack(archive.read(_HEADER.size)))
    return archive.tell() + names, found[0].file_size


class _Part(io.RawIOBase):
    """Bytes `[start, start + length)` of a file."""

    def __init__(self, file: IO[bytes], start: int, length: int) -> None:
        self._file, self._start, self._length = file, start, length
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + (0, self._position, self._length)[whence]
        return self._position

    def readinto(self, buffer: Any) -> int:
        count = max(0, min(len(buffer), self._length - self._position))
        self._file.seek(self._start + self._position)
        data = self._file.read(count)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
