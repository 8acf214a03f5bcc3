"""Writes RecordIO files, byte for byte as MXNet does; `data.records.format` describes them."""

from array import array
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from data.files import WriteError, publish, sync_file, writing
from data.records.format import (
    FIRST,
    LAST,
    MAGIC,
    MAGIC_BYTES,
    MIDDLE,
    PART,
    SIZE_BITS,
    SIZE_MASK,
    WHOLE,
    Bytes,
    framed_bytes,
    pack_record,
)

_PADDING = (b"", bytes(3), bytes(2), bytes(1))  # by size modulo 4


@dataclass(frozen=True)
class WriterPosition:
    """How many bytes of a `RecordWriter`'s `.rec` and `.idx` are safely on the disk."""

    rec_bytes: int
    idx_bytes: int


class RecordWriter:
    """Writes `<name>.rec` and `<name>.idx`, as MXNet's indexed writer does.

    A context manager. The files have the suffix `.partial` until the block ends without an
    exception and everything is on the disk. After an exception they are deleted, unless
    `checkpoint` was called: then another writer can resume them.

    `resume` continues the partial files of an earlier writer from this position; what it wrote
    after that is dropped. Memory is `BUFFER_BYTES` and 16 bytes for each break in a run of
    consecutive keys.

    Raises `WriteError` if the disk is full or the partial files to resume are missing or shorter.
    """

    BUFFER_BYTES = 1 << 18

    def __init__(self, path: Path, *, resume: WriterPosition | None = None) -> None:
        self.path = path
        self._paths = (path, path.with_suffix(".idx"))
        self._partial = tuple(p.with_name(p.name + ".partial") for p in self._paths)
        self._pieces: list[bytes] = []  # of the .rec, not written yet
        self._lines: list[str] = []  # of the .idx, not written yet
        self._buffered_from = self.offset = 0  # where the next record will be
        self._starts, self._stops = array("q"), array("q")  # runs of keys
        self._keep = resume is not None
        with writing(path):
            mode = "wb+" if resume is None else "rb+"
            self._files = [open(partial, mode) for partial in self._partial]  # noqa: SIM115
            if resume is not None:
                self._resume(resume)

    def _resume(self, at: WriterPosition) -> None:
        sizes = (at.rec_bytes, at.idx_bytes)
        for file, partial, size in zip(self._files, self._partial, sizes, strict=True):
            found = partial.stat().st_size
            if found < size:
                raise WriteError(
                    f"{partial} has {found} bytes, expected {size} or more as the earlier run "
                    "wrote it; delete it with its folder, and run again"
                )
            file.truncate(size)
        try:
            text = self._files[1].read().decode("ascii")
            keys = np.fromstring(text, np.int64, sep=" ")[::2]
        except ValueError as error:
            raise WriteError(
                f"{self._partial[1]} is damaged: {error}; expected the numbers that the earlier "
                "run wrote; delete it with its folder, and run again"
            ) from error
        if len(keys):
            breaks = np.flatnonzero(np.diff(keys) != 1) + 1
            self._starts.extend(keys[np.append(0, breaks)].tolist())
            self._stops.extend((keys[np.append(breaks - 1, -1)] + 1).tolist())
        self._files[0].seek(at.rec_bytes)
        self._buffered_from = self.offset = at.rec_bytes

    def write(self, key: int, payload: Bytes) -> int:
        """Append a record and return its offset.

        Raises `ValueError` for a negative key and for a payload of 2**29 bytes or more.
        """
        size = len(payload)
        if key < 0 or size > SIZE_MASK:
            raise ValueError(
                f"{self.path}, key {key}, {size} bytes: expected a key of 0 or more and at most "
                f"{SIZE_MASK} bytes"
            )
        offset = self.offset
        content = bytes(payload)
        if content.rfind(MAGIC_BYTES) >= 0:  # takes half as long as `in`
            self._append_parts(_split_at_magic(content))
        else:
            self._pieces += (PART.pack(MAGIC, size), content, _PADDING[size % 4])
            self.offset += framed_bytes(size)
        self._lines.append(f"{key}\t{offset}\n")
        if not self._stops or key != self._stops[-1]:
            self._starts.append(key)
            self._stops.append(key)
        self._stops[-1] = key + 1
        if self.offset - self._buffered_from >= self.BUFFER_BYTES:
            self._flush()
        return offset

    def _append_parts(self, parts: list[bytes]) -> None:
        flags = [FIRST, *[MIDDLE] * (len(parts) - 2), LAST] if len(parts) > 1 else [WHOLE]
        for flag, part in zip(flags, parts, strict=True):
            word = flag << SIZE_BITS | len(part)
            self._pieces += (PART.pack(MAGIC, word), part, _PADDING[len(part) % 4])
            self.offset += framed_bytes(len(part))

    def checkpoint(self) -> WriterPosition:
        """Wait until everything written so far is on the disk, and return the position.

        From now on the partial files are kept when the block ends with an exception.
        """
        self._sync()
        self._keep = True
        return WriterPosition(self.offset, self._files[1].tell())

    def _flush(self) -> None:
        """Write what is buffered at once, which costs less than one call per record."""
        with writing(self.path):
            self._files[0].write(b"".join(self._pieces))
            self._files[1].write("".join(self._lines).encode("ascii"))
        self._pieces.clear()
        self._lines.clear()
        self._buffered_from = self.offset

    def _sync(self) -> None:
        self._flush()
        with writing(self.path):
            for file in self._files:
                sync_file(file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._abandon()
            return
        try:
            self._refuse_repeated_keys()
            self._sync()
            with writing(self.path):
                for file in self._files:
                    file.close()
                # A crash between the two renames must not leave an old index with the new file.
                self._paths[1].unlink(missing_ok=True)
                for partial, path in zip(self._partial, self._paths, strict=True):
                    publish(partial, path)
        except BaseException:
            self._abandon()
            raise

    def _abandon(self) -> None:
        for file in self._files:
            with suppress(OSError):  # closing flushes, which fails again if the disk is full
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
                f"{self.path}: key {repeated[0]} was written more than once: expected every key "
                "once; nothing was kept"
            )


def _split_at_magic(data: bytes) -> list[bytes]:
    """Return what is between the magics at multiples of 4."""
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

    `images` yields (class, encoded image), sorted by class, with every class from 0 on. The images
    get the keys 1 … n; see `write_identity_ranges` for the records that follow. Returns the
    numbers of images and of classes.

    Raises `ValueError` if classes are out of order or missing, and if there are no images.
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
                    "expected images sorted by class, with no class missing"
                )
            writer.write(key, pack_record(float(label), key, image))
        if not starts:
            raise ValueError(f"{folder}: there are no images to write: expected at least one")
        write_identity_ranges(writer, starts, key + 1)
    property_text = f"{len(starts)},{image_size},{image_size}\n"
    (folder / "property").write_text(property_text, encoding="ascii")
    return key, len(starts)


def write_identity_ranges(writer: RecordWriter, starts: Sequence[int], stop: int) -> None:
    """Append what ends a file in the identity layout whose images have the keys 1 … `stop` - 1.

    That is one record per identity with its range of keys, and record 0 with `[stop, stop + number
    of identities]`. `starts` holds the first key of each identity, ascending.
    """
    for number, (first, end) in enumerate(zip(starts, [*starts[1:], stop], strict=True)):
        writer.write(stop + number, pack_record([first, end], stop + number, b""))
    writer.write(0, pack_record([stop, stop + len(starts)], 0, b""))
