"""Files of arrays that are mapped, and end with their CRC-32; read without trust in their content.

A checksum shows what a disk damaged. Whoever makes a file to do harm states the right one: so the
arrays have an expected type, lie within the file, and hold what their reader checks.
"""

import zlib
from typing import IO, Any, Final

import numpy as np
import numpy.typing as npt

from data.records.format import PART, Int64s

_CHUNK: Final = 1 << 22  # bytes
# The CRC-32 of any content that is followed by its own CRC-32.
_INTACT: Final = zlib.crc32(bytes(4))


def write_checksum(file: IO[bytes]) -> None:
    """Append the CRC-32 of the whole content, so that `check_intact` finds it unchanged."""
    file.seek(0)
    file.write(_checksum(file).to_bytes(4, "little"))


def check_intact(file: IO[bytes]) -> None:
    """Raise `ValueError` unless the rest of `file` ends with its CRC-32."""
    if _checksum(file) != _INTACT:
        raise ValueError("it is damaged, or of an earlier version")


def map_array(file: IO[bytes], kind: type[np.generic], *, dimensions: int = 1) -> npt.NDArray[Any]:
    """Map the array that `np.save` wrote at the position of `file`, and skip it.

    Raises `ValueError` if it has another type than `kind`, or is not within the file. An array of
    Python objects is one of pointers, which its bytes would choose.
    """
    np.lib.format.read_magic(file)
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.type is not kind or not dtype.isnative or len(shape) != dimensions:
        raise ValueError(f"it has {dtype} of shape {shape}, expected {kind.__name__}")
    start = file.tell()
    array = np.memmap(file, dtype, "r", start, shape)  # raises beyond the end of the file
    file.seek(start + array.nbytes)
    return np.asarray(array)  # reading a number from a `memmap` takes several times as long


def check_offsets(offsets: Int64s, size: int) -> None:
    """Raise `ValueError` if a record of a file of `size` bytes cannot start at one of `offsets`."""
    if offsets.min() < 0 or offsets.max() > size - PART.size or (offsets & 3).any():
        raise ValueError(f"it has offsets from {offsets.min()} to {offsets.max()} of {size} bytes")


def _checksum(file: IO[bytes]) -> int:
    """Return the CRC-32 of the rest of `file`."""
    checksum = 0
    while chunk := file.read(_CHUNK):
        checksum = zlib.crc32(chunk, checksum)
    return checksum
