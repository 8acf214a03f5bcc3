"""RecordIO, the container of the public face datasets, read and written without MXNet.

A `.rec` file is a sequence of parts. Each starts at a multiple of 4 bytes; all words are
little-endian:

    uint32 magic 0xced7230a | uint32 flag << 29 | size | `size` bytes | zeros up to 4 bytes

Flag 0 is a whole record. A payload that contains the magic at a multiple of 4 bytes is split
there, without the magic: flag 1 marks the first part, 2 a middle one, 3 the last, and the reader
puts the magic back in between. So no part contains the magic at a multiple of 4 bytes.

The payload of an image record starts with `uint32 flag, float32 label, uint64 id, uint64 id2`.
With `flag > 0`, `flag` float32 labels follow and the label field is 0. The rest is the encoded
image. The `.idx` file of the same name is text, `key<tab>offset` on each line.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from recognition.redaction import redact

Bytes = bytes | memoryview
Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
ByteRange = tuple[int, int]  # start and stop, in bytes of a file

MAGIC: Final = 0xCED7230A
MAGIC_BYTES: Final = struct.pack("<I", MAGIC)
PART: Final = struct.Struct("<II")  # magic, flag and size
HEADER: Final = struct.Struct("<IfQQ")  # number of labels, label, id, second id
SIZE_BITS: Final = 29
SIZE_MASK: Final = (1 << SIZE_BITS) - 1
WHOLE, FIRST, MIDDLE, LAST = range(4)

# Words of a record that `decode_headers` needs: its frame, its header and two labels.
HEADER_WORDS: Final = (PART.size + HEADER.size + 8) // 4


class RecordError(ValueError):
    """A damaged or wrong `.rec` or `.idx` file; says where, and how to fix it."""

    def __init__(self, message: str) -> None:
        super().__init__(redact(message))


@dataclass(frozen=True)
class Record:
    """The fields of a payload."""

    labels: npt.NDArray[np.float32]  # [m], m >= 1; the first is the class
    id: int  # usually the record's key
    id2: int  # 0 in every known dataset
    image: memoryview  # encoded, a view of the payload; empty in header and range records
    is_list: bool  # whether the labels are stored as a list, as more than one always are


def unpack_record(payload: Bytes) -> Record:
    """Return the fields of a payload; raise `RecordError` if it is shorter than its header."""
    flag = HEADER.unpack_from(payload)[0] if len(payload) >= HEADER.size else 0
    start = HEADER.size + 4 * flag
    if len(payload) < start:
        raise RecordError(
            f"a payload of {len(payload)} bytes has no image header: expected at least {start}"
        )
    _, label, record_id, id2 = HEADER.unpack_from(payload)
    if flag:
        labels = np.frombuffer(payload, "<f4", flag, HEADER.size)
    else:
        labels = np.array([label], np.float32)
    return Record(labels, record_id, id2, memoryview(payload)[start:], flag > 0)


def pack_record(
    label: float | Sequence[float] | npt.NDArray[np.float32],
    record_id: int,
    image: Bytes,
    *,
    id2: int = 0,
) -> bytes:
    """Return the payload of an image record.

    A number is stored in the header, a sequence as a list after it, even if it holds one value.
    Raises `ValueError` for an empty sequence, which the format cannot express.
    """
    if isinstance(label, int | float):
        return b"".join((HEADER.pack(0, label, record_id, id2), image))
    labels = np.asarray(label, dtype="<f4")
    if labels.size == 0:
        raise ValueError(f"record {record_id} has an empty list of labels: expected one or more")
    header = HEADER.pack(labels.size, 0.0, record_id, id2)
    return b"".join((header, labels.tobytes(), image))


def framed_bytes(size: int) -> int:
    """Return the bytes that a part of `size` bytes takes in the file."""
    return PART.size + (size + 3 & ~3)


@dataclass(frozen=True)
class Headers:
    """The headers of n records, column by column."""

    flags: npt.NDArray[np.uint32]  # number of labels after the header, 0 for a single one in it
    labels: npt.NDArray[np.float32]  # [n, 2]: the first two, NaN where there is none
    ids: npt.NDArray[np.uint64]
    # Bytes after header and labels. Negative where the payload is too short to hold them: such a
    # record has no header, and its other columns are undefined.
    image_sizes: Int64s


def decode_headers(words: npt.NDArray[np.uint32]) -> Headers:
    """Decode the first words, uint32 [HEADER_WORDS, n], of n records that are in one part.

    Words beyond the end of a record may be anything. For a record in several parts, pass
    `joined_words`.
    """
    flags = words[2]
    labels = np.stack([np.where(flags > 0, words[8], words[3]), words[9]], 1).view(np.float32)
    labels[flags < 2, 1] = np.nan
    ids = words[4].astype(np.uint64) | words[5].astype(np.uint64) << np.uint64(32)
    sizes = (words[1] & SIZE_MASK).astype(np.int64)
    return Headers(flags, labels, ids, sizes - HEADER.size - 4 * flags.astype(np.int64))


def joined_words(parts: Sequence[Bytes]) -> npt.NDArray[np.uint32]:
    """Return the first words, uint32 [HEADER_WORDS], that a record would have in one part.

    `parts` are those of its payload, of at most `SIZE_MASK` bytes in all. No more of them is
    joined than the words need.
    """
    size = sum(map(len, parts)) + len(MAGIC_BYTES) * (len(parts) - 1)
    needed = 4 * HEADER_WORDS - PART.size
    start = bytearray(parts[0][:needed])
    for part in parts[1:]:
        if len(start) >= needed:
            break
        start += MAGIC_BYTES + part[:needed]
    words = PART.pack(MAGIC, size) + start[:needed].ljust(needed, b"\0")
    return np.frombuffer(words, "<u4")
