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
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from data.files import WriteError, publish, sync_file, writing

Bytes = bytes | memoryview

MAGIC = 0xCED7230A
MAGIC_BYTES = struct.pack("<I", MAGIC)
PART = struct.Struct("<II")  # magic, flag and size
HEADER = struct.Struct("<IfQQ")  # number of labels, label, id, second id
SIZE_BITS = 29
SIZE_MASK = (1 << SIZE_BITS) - 1
WHOLE, FIRST, MIDDLE, LAST = range(4)
_PADDING = (b"", bytes(3), bytes(2), bytes(1))  # by size modulo 4


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
    if isinstance(label, int | float):
        return b"".join((HEADER.pack(0, label, record_id, id2), image))
    labels = np.asarray(label, dtype="<f4")
    if labels.size == 0:
        raise ValueError(f"record {record_id} has an empty list of labels: expected one or more")
    header = HEADER.pack(labels.size, 0.0, record_id, id2)
    return b"".join((header, labels.tobytes(), image))


@dataclass(frozen=True)
class Checkpoint:
    """How far the files of a `RecordWriter` are safely on the disk.

    Attributes:
        rec_bytes: of the `.rec`.
        idx_bytes: of the `.idx`.
    """

    rec_bytes: int
    idx_bytes: int


class RecordWriter:
    """Writes `<name>.rec` and `<name>.idx`, byte for byte as MXNet's indexed writer does.

    A context manager. Both files appear under their names only when the block ends without an
    exception and all of them is on the disk, so that nobody reads half a file; until then they
    carry `.partial` at the end. After an exception those are deleted, unless there is a
    checkpoint of them to go on from.

    Memory is `BUFFER_BYTES` and 16 bytes for each break in a run of consecutive keys.

    Args:
        path: the `.rec` file.
        resume: go on from this checkpoint of an earlier writer; what it wrote later is dropped.

    Raises `WriteError` when the disk is full, and when the files to go on from are not there.
    """

    BUFFER_BYTES = 1 << 18

    def __init__(self, path: Path, *, resume: Checkpoint | None = None) -> None:
        self.path = path
        self._paths = (path, path.with_suffix(".idx"))
        self._partial = tuple(p.with_name(p.name + ".partial") for p in self._paths)
        self._pieces: list[bytes] = []  # of the .rec, not handed to the system yet
        self._lines: list[str] = []  # of the .idx, likewise
        self._buffered_from = self._offset = 0
        self._starts, self._stops = array("q"), array("q")  # runs of keys
        self._keep = resume is not None
        with writing(path):
            mode = "wb+" if resume is None else "rb+"
            self._files = [open(partial, mode) for partial in self._partial]  # noqa: SIM115
            if resume is not None:
                self._resume(resume)

    def _resume(self, at: Checkpoint) -> None:
        sizes = (at.rec_bytes, at.idx_bytes)
        for file, partial, size in zip(self._files, self._partial, sizes, strict=True):
            found = partial.stat().st_size
            if found < size:
                raise WriteError(
                    f"{partial} has {found} bytes, expected {size} or more: it is not what the "
                    "earlier run wrote; delete it with its folder, and run again"
                )
            file.truncate(size)
        text = self._files[1].read().decode("ascii")
        keys = np.fromstring(text, np.int64, sep=" ")[::2]
        if len(keys):
            breaks = np.flatnonzero(np.diff(keys) != 1) + 1
            self._starts.extend(keys[np.append(0, breaks)].tolist())
            self._stops.extend((keys[np.append(breaks - 1, -1)] + 1).tolist())
        self._files[0].seek(at.rec_bytes)
        self._buffered_from = self._offset = at.rec_bytes

    @property
    def offset(self) -> int:
        """Where the next record starts."""
        return self._offset

    def write(self, key: int, payload: Bytes) -> int:
        """Append a record and return its offset.

        Raises `ValueError` for a negative key or a payload of 2**29 bytes or more.
        """
        size = len(payload)
        if key < 0 or size > SIZE_MASK:
            raise ValueError(
                f"{self.path}, key {key}, {size} bytes: expected a key of 0 or more and "
                f"at most {SIZE_MASK} bytes"
            )
        offset = self._offset
        content = bytes(payload)
        if content.rfind(MAGIC_BYTES) >= 0:  # half of the time that `in` takes
            self._append_parts(_split_at_magic(content))
        else:
            self._pieces += (PART.pack(MAGIC, size), content, _PADDING[size % 4])
            self._offset += framed_bytes(size)
        self._lines.append(f"{key}\t{offset}\n")
        if not self._stops or key != self._stops[-1]:
            self._starts.append(key)
            self._stops.append(key)
        self._stops[-1] = key + 1
        if self._offset - self._buffered_from >= self.BUFFER_BYTES:
            self._flush()
        return offset

    def _append_parts(self, parts: list[bytes]) -> None:
        flags = [FIRST, *[MIDDLE] * (len(parts) - 2), LAST] if len(parts) > 1 else [WHOLE]
        for flag, part in zip(flags, parts, strict=True):
            word = flag << SIZE_BITS | len(part)
            self._pieces += (PART.pack(MAGIC, word), part, _PADDING[len(part) % 4])
            self._offset += framed_bytes(len(part))

    def checkpoint(self) -> Checkpoint:
        """Wait until all that was written is on the disk, and return how far that is.

        From now on the partial files stay where they are when the block ends with an exception.
        """
        self._sync()
        self._keep = True
        return Checkpoint(self._offset, self._files[1].tell())

    def _flush(self) -> None:
        """Hand what is buffered to the system in one piece: a call a record would cost more."""
        with writing(self.path):
            self._files[0].write(b"".join(self._pieces))
            self._files[1].write("".join(self._lines).encode("ascii"))
        self._pieces.clear()
        self._lines.clear()
        self._buffered_from = self._offset

    def _sync(self) -> None:
        self._flush()
        with writing(self.path):
            for file in self._files:
                sync_file(file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._abandon()
            return
        try:
            self._refuse_repeated_keys()
            self._sync()
            with writing(self.path):
                for file in self._files:
                    file.close()
                # An index of an older file under the new one would be worse than none at all.
                self._paths[1].unlink(missing_ok=True)
                for partial, path in zip(self._partial, self._paths, strict=True):
                    publish(partial, path)
        except BaseException:
            self._abandon()
            raise

    def _abandon(self) -> None:
        for file in self._files:
            with suppress(OSError):  # closing writes what a full disk has not taken
                file.close()
        if not self._keep:
            for partial in self._partial:
                partial.unlink(missing_ok=True)

    def _refuse_repeated_keys(self) -> None:
        starts, stops = (np.frombuffer(runs, np.int64) for runs in (self._starts, self._stops))
        order = np.argsort(starts, kind="stable")
        repeated = starts[order[1:]][starts[order[1:]] < stops[order[:-1]]]
        if len(repeated):
            self._keep = False
            raise ValueError(
                f"{self.path}: key {repeated[0]} was written more than once: expected "
                "every key once; nothing was kept"
            )


def framed_bytes(size: int) -> int:
    """Return the bytes that a part of `size` bytes takes in the file."""
    return 8 + (size + 3 & ~3)


def _split_at_magic(data: bytes) -> list[bytes]:
    parts: list[bytes] = []
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
        write_identity_ranges(writer, starts, key + 1)
    property_text = f"{len(starts)},{image_size},{image_size}\n"
    (folder / "property").write_text(property_text, encoding="ascii")
    return key, len(starts)


def write_identity_ranges(writer: RecordWriter, starts: Sequence[int], stop: int) -> None:
    """End a file whose images have the keys 1 … `stop` - 1: one record an identity, and record 0.

    `starts` holds the first key of each identity, ascending.
    """
    for number, (first, end) in enumerate(zip(starts, [*starts[1:], stop], strict=True)):
        writer.write(stop + number, pack_record([first, end], stop + number, b""))
    writer.write(0, pack_record([stop, stop + len(starts)], 0, b""))
