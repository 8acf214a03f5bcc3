"""RecordIO, the container of the public face datasets, read and written without MXNet.

A `.rec` file is a chain of parts, each on a 4-byte boundary, all words little-endian:

    uint32 magic 0xced7230a | uint32 flag << 29 | size | `size` bytes | zeros up to 4 bytes

Flag 0 is a whole record. A payload that holds the magic on a 4-byte boundary of its own is cut
there, the magic left out: flag 1 starts such a record, 2 goes on, 3 ends it, and the reader puts
the magic back between the parts. So no part ever contains the magic on a boundary.

The payload of an image record starts with `uint32 flag, float32 label, uint64 id, uint64 id2`.
With `flag > 0` that many float32 labels follow and the label field is 0. The image's bytes are
the rest. The `.idx` beside the file is text, `key<tab>offset` on each line.
"""

import struct
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

Bytes = bytes | memoryview

MAGIC = 0xCED7230A
MAGIC_BYTES = struct.pack("<I", MAGIC)
PART = struct.Struct("<II")  # magic, flag and size
HEADER = struct.Struct("<IfQQ")  # number of labels, label, id, second id
SIZE_BITS = 29
SIZE_MASK = (1 << SIZE_BITS) - 1
WHOLE, FIRST, MIDDLE, LAST = range(4)


class RecordError(ValueError):
    """A `.rec` or `.idx` file that is not what it should be; says where, and the mend."""


@dataclass(frozen=True)
class Record:
    """A payload taken apart.

    Attributes:
        labels: float32 [m], m >= 1; the first is the class.
        id: usually the record's key.
        id2: 0 in every known dataset.
        image: the encoded image, a view of the payload; empty in header and range records.
        is_list: whether the labels are stored as a list, as more than one always are.
    """

    labels: npt.NDArray[np.float32]
    id: int
    id2: int
    image: memoryview
    is_list: bool


def unpack_record(payload: Bytes) -> Record:
    """Take a payload apart; raises `RecordError` if it is too short for its own header."""
    flag = HEADER.unpack_from(payload)[0] if len(payload) >= HEADER.size else 0
    start = HEADER.size + 4 * flag
    if len(payload) < start:
        raise RecordError(
            f"a payload of {len(payload)} bytes holds no image header: expected at least {start}"
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
    labels = np.asarray(label, dtype="<f4")
    if labels.ndim == 0:
        return HEADER.pack(0, float(labels), record_id, id2) + bytes(image)
    if labels.size == 0:
        raise ValueError(f"record {record_id} has an empty list of labels: expected one or more")
    return HEADER.pack(labels.size, 0.0, record_id, id2) + labels.tobytes() + bytes(image)


class RecordWriter:
    """Writes `<name>.rec` and `<name>.idx`, byte for byte as MXNet's indexed writer does.

    A context manager. Both files appear under their names only when the block ends without an
    exception, so that nobody reads half a file; until then they carry `.partial` at the end.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._paths = (path, path.with_suffix(".idx"))
        self._partial = tuple(p.with_name(p.name + ".partial") for p in self._paths)
        self._rec = self._partial[0].open("wb")
        self._idx = self._partial[1].open("w", encoding="ascii")
        self._offset = 0
        self._keys = array("q")

    def write(self, key: int, payload: Bytes) -> int:
        """Append a record and return its offset.

        Raises `ValueError` for a negative key or a payload of 2**29 bytes or more.
        """
        if key < 0 or len(payload) > SIZE_MASK:
            raise ValueError(
                f"{self.path}, key {key}, {len(payload)} bytes: expected a key of 0 or more and "
                f"at most {SIZE_MASK} bytes"
            )
        offset = self._offset
        parts = _split_at_magic(payload)
        flags = [FIRST, *[MIDDLE] * (len(parts) - 2), LAST] if len(parts) > 1 else [WHOLE]
        for flag, part in zip(flags, parts, strict=True):
            padding = bytes(-len(part) % 4)
            self._rec.write(PART.pack(MAGIC, flag << SIZE_BITS | len(part)))
            self._rec.write(part)
            self._rec.write(padding)
            self._offset += 8 + len(part) + len(padding)
        self._idx.write(f"{key}\t{offset}\n")
        self._keys.append(key)
        return offset

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._rec.close()
        self._idx.close()
        keys = np.sort(np.frombuffer(self._keys, np.int64))
        repeated = keys[1:][keys[1:] == keys[:-1]]
        if kind is None and len(repeated) == 0:
            # An index of an older file under the new one would be worse than none at all.
            self._paths[1].unlink(missing_ok=True)
            for partial, path in zip(self._partial, self._paths, strict=True):
                partial.replace(path)
            return
        for partial in self._partial:
            partial.unlink()
        if kind is None:
            raise ValueError(
                f"{self.path}: key {repeated[0]} was written more than once: expected "
                "every key once; nothing was kept"
            )


def _split_at_magic(payload: Bytes) -> list[Bytes]:
    data = bytes(payload)
    parts: list[Bytes] = []
    start, at = 0, data.find(MAGIC_BYTES)
    while at >= 0:
        if at % 4 == 0:
            parts.append(data[start:at])
            start = at + 4
        at = data.find(MAGIC_BYTES, at + 1 if at % 4 else at + 4)
    return [*parts, data[start:]]


def write_face_records(
    folder: Path, images: Iterable[tuple[int, Bytes]], *, image_size: int = 112
) -> tuple[int, int]:
    """Write `train.rec`, `train.idx` and `property` in the layout of the public face datasets.

    `images` gives (class, encoded image), sorted by class, with every class from 0 on. They get
    the keys 1 … n; one record for each class with its range of keys follows, then record 0 with
    [n + 1, n + 1 + classes]. Returns the numbers of images and of classes.

    Raises `ValueError` for classes out of order or left out, and for no images at all.
    """
    folder.mkdir(parents=True, exist_ok=True)
    starts: list[int] = []  # first key of each class
    key = 0
    with RecordWriter(folder / "train.rec") as writer:
        for key, (label, image) in enumerate(images, start=1):
            if label == len(starts):
                starts.append(key)
            elif label != len(starts) - 1:
                raise ValueError(
                    f"{folder}: image {key} has class {label} after class {len(starts) - 1}: "
                    "expected images sorted by class, with no class left out"
                )
            writer.write(key, pack_record(float(label), key, image))
        if not starts:
            raise ValueError(f"{folder}: no images were given to write")
        for label, (start, stop) in enumerate(zip(starts, [*starts[1:], key + 1], strict=True)):
            range_key = key + 1 + label
            writer.write(range_key, pack_record([start, stop], range_key, b""))
        writer.write(0, pack_record([key + 1, key + 1 + len(starts)], 0, b""))
    property_text = f"{len(starts)},{image_size},{image_size}\n"
    (folder / "property").write_text(property_text, encoding="ascii")
    return key, len(starts)
