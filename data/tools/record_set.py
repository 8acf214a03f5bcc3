"""Sets of records on disk: one file or several shards, in either layout, with the classes' names.

    train.rec, train.idx                 one file, or
    train-00000.rec, train-00000.idx …   shards: each a whole file of its own, with the class
                                         numbers of the whole set
    property                             `classes,height,width`
    classes.json                         {name: class}, where the classes have names

In the *identity* layout, that of the public face datasets, a file's images are sorted by class and
have the keys 1 … n; records with the keys of each identity follow, then record 0. In the *plain*
layout, that of MXNet's im2rec, the images have the keys 0 … n - 1 in any order and nothing
follows. `data.records.labels` says how a reader tells them apart.
"""

import json
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, get_args

import numpy as np
import numpy.typing as npt

from data.datasets.class_ids import number_datasets
from data.files import writing
from data.records.format import (
    HEADER,
    MAGIC_BYTES,
    Bytes,
    Record,
    RecordError,
    framed_bytes,
    pack_record,
    unpack_record,
)
from data.records.index import open_index, read_index
from data.records.labels import INEXACT_FROM, ImageTable, read_images
from data.records.reader import RecordFile
from data.records.shards import find_records
from data.records.writer import RecordWriter, WriterPosition, write_identity_ranges
from data.tools.encoded_image import pixel_size

Layout = Literal["identity", "plain"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)

CLASSES = "classes.json"
PROPERTY = "property"
_RANGE_BYTES = framed_bytes(HEADER.size + 8)  # of an identity's record, and of record 0
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_bytes(text: str) -> int:
    """Return the number of bytes that `2G`, `500M` or `1000000` means; raises `ValueError`."""
    number, unit = text.strip().upper().removesuffix("B"), ""
    if number[-1:] in _UNITS:
        number, unit = number[:-1], number[-1:]
    if not number.isdigit() or int(number) == 0:
        raise ValueError(f"{text!r} is no size: expected a number of bytes such as 2G, 500M, 4096")
    return int(number) * _UNITS[unit]


@dataclass(frozen=True)
class Cut:
    """Where a set is cut into shards: nowhere by default, or by one of the two.

    Attributes:
        shards: number of files, with as equal numbers of images as can be.
        shard_bytes: most bytes of a `.rec`, but for one image that is larger.

    Raises `ValueError` for both at once and for numbers below 1.
    """

    shards: int | None = None
    shard_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.shards is not None and self.shard_bytes is not None:
            raise ValueError(
                f"shards is {self.shards} and shard_bytes {self.shard_bytes}: expected one of them"
            )
        for name, value in asdict(self).items():
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}: expected at least 1")

    def stop(self, position: int, total: int) -> int:
        """Return where the shard ends that image `position` of `total` is in, by `shards`."""
        if self.shards is None:
            return total
        size, larger = divmod(total, self.shards)  # the first `larger` have one image more
        if position < larger * (size + 1):
            return (position // (size + 1) + 1) * (size + 1)
        return total - (total - 1 - position) // size * size


@dataclass(frozen=True)
class SetCheckpoint:
    """How far a set is safely on the disk.

    Attributes:
        shard: number of the shard in work; all before it are whole.
        stop: the first position that is not in it, by the number of shards.
        file: how far its files are.
    """

    shard: int
    stop: int
    file: WriterPosition

    def to_json(self) -> dict[str, Any]:
        """Return the same as plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Return the checkpoint that `to_json` gave."""
        return cls(values["shard"], values["stop"], WriterPosition(**values["file"]))


class RecordSetWriter:
    """Writes the files of a set, one after the other.

    A context manager. Each file appears under its name when it is whole; after an exception the
    one in work is deleted, unless there is a checkpoint to go on from.

    Args:
        folder: an existing folder.
        total: number of images that are to come; fewer may.
        layout: see the module; in `identity` the images must come sorted by class.
        cut: where one file ends and the next begins.
        resume: go on from this checkpoint of an earlier writer with the same arguments.

    Raises `ValueError` for no images, or fewer than shards, and `WriteError` as `RecordWriter`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        total: int,
        layout: Layout,
        cut: Cut,
        resume: SetCheckpoint | None = None,
    ) -> None:
        if total < (cut.shards or 1):
            raise ValueError(
                f"{folder}: {total} images for {cut.shards or 1} files: expected at least one each"
            )
        self.folder, self._total, self._layout, self._cut = folder, total, layout, cut
        self._first_key = 1 if layout == "identity" else 0
        self._shard, self._stop = 0, 0
        self._images = 0  # in the file in work
        self._starts: list[int] = []  # first key of each class in the file in work
        self._label = -1
        if resume is None:
            self._writer = RecordWriter(self._path(0))
        else:
            self._resume(resume)

    def _path(self, shard: int) -> Path:
        single = self._cut.shards is None and self._cut.shard_bytes is None
        return self.folder / ("train.rec" if single else f"train-{shard:05d}.rec")

    def _resume(self, at: SetCheckpoint) -> None:
        self._shard, self._stop = at.shard, at.stop
        path = self._path(at.shard)
        for final in (path, path.with_suffix(".idx")):
            if final.exists():  # the file was finished after the checkpoint
                final.replace(final.with_name(final.name + ".partial"))
        self._writer = RecordWriter(path, resume=at.file)
        if at.file.rec_bytes == 0:
            return
        index = read_index(path.with_name(path.stem + ".idx.partial"))
        self._images = len(index.keys)
        if self._layout == "identity":
            file = RecordFile(path.with_name(path.name + ".partial"))
            for rows, headers in file.headers_in_chunks(index.offsets, index.keys):
                labels = headers.labels[:, 0].astype(np.int64)
                begins = np.flatnonzero(np.diff(labels, prepend=self._label))
                self._starts += (rows.start + begins + self._first_key).tolist()
                self._label = int(labels[-1])

    def add(
        self,
        position: int,
        label: int,
        image: Bytes,
        *,
        more_labels: Sequence[float] | None = None,
        id2: int = 0,
    ) -> None:
        """Append image `position` of `total`; positions must rise.

        `more_labels` are stored after `label` in a list; None stores `label` in the header.
        """
        stored = float(label) if more_labels is None else [label, *more_labels]
        size = HEADER.size + (0 if more_labels is None else 4 + 4 * len(more_labels)) + len(image)
        if self._images and (position >= self._stop or self._is_full(size, label, image)):
            self._end_file()
            self._shard += 1
            self._writer = RecordWriter(self._path(self._shard))
            self._images, self._starts, self._label = 0, [], -1
        key = self._first_key + self._images
        if self._images == 0:
            self._stop = self._cut.stop(position, self._total)
        if self._layout == "identity" and label != self._label:
            assert label > self._label, "images of the identity layout come sorted by class"
            self._starts.append(key)
        self._label = label
        self._writer.write(key, pack_record(stored, key, image, id2=id2))
        self._images += 1

    def add_record(self, position: int, label: int, record: Record) -> None:
        """Append image `position`: a record read elsewhere, with another first label."""
        more = record.labels[1:].tolist() if record.is_list else None
        self.add(position, label, record.image, more_labels=more, id2=record.id2)

    def _is_full(self, payload_bytes: int, label: int, image: Bytes) -> bool:
        if self._cut.shard_bytes is None:
            return False
        # A magic number inside costs at most a frame and padding more, where the record is split.
        splits = bytes(image).count(MAGIC_BYTES)
        size = self._writer.offset + framed_bytes(payload_bytes) + 8 * splits
        if self._layout == "identity":
            size += _RANGE_BYTES * (1 + len(self._starts) + (label != self._label))
        return size > self._cut.shard_bytes

    def checkpoint(self) -> SetCheckpoint:
        """Wait until all that was added is on the disk, and return how far that is."""
        return SetCheckpoint(self._shard, self._stop, self._writer.checkpoint())

    def _end_file(self) -> None:
        if self._layout == "identity":
            write_identity_ranges(self._writer, self._starts, self._first_key + self._images)
        self._writer.__exit__(None, None, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._writer.__exit__(kind, error, trace)
        elif self._images == 0:
            self._writer.__exit__(ValueError, None, None)
            raise ValueError(f"{self.folder}: no images were given to write: expected at least one")
        else:
            self._end_file()


def write_set_files(
    folder: Path, num_classes: int, names: Sequence[str] | None, image: Bytes
) -> None:
    """Write what lies beside the records: `property`, and `classes.json` where there are names.

    Args:
        folder: of the records.
        num_classes: C.
        names: of the classes 0 … C - 1, all different, or None.
        image: any of the set, whose size `property` then states; without a size there is none.
    """
    size = pixel_size(image)
    with writing(folder):
        if size is not None:
            text = f"{num_classes},{size[1]},{size[0]}\n"
            (folder / PROPERTY).write_text(text, encoding="ascii")
        if names is not None:
            classes = {name: number for number, name in enumerate(names)}
            assert len(classes) == num_classes, "every class has a name of its own"
            (folder / CLASSES).write_text(json.dumps(classes, indent=0), encoding="ascii")


@dataclass(frozen=True)
class _Stored:
    """Labels of a file, to be numbered."""

    labels: npt.NDArray[np.int32]
    names: None = None


class RecordSet:
    """The images of a set of records, in the order of its files and their indexes.

    Args:
        path: see `data.records.shards.find_records`.
        remap_labels: number the classes afresh where the labels have gaps.

    Attributes:
        path, paths: of the set; of its files.
        tables: key, offset and label in the file of each image, a table a file.
        labels: class of each of the n images; int64 [n], from 0 to `num_classes - 1`.
        num_classes: C.
        names: of the classes, from `classes.json`, or None where it is missing.
        stored_labels: what the files call the classes, or None where it is the same.

    Raises `DatasetError`, `RecordError` and `NumberingError` as
    `data.datasets.dataset.open_dataset`, and `RecordError` for a `classes.json` that does not
    name every class once.
    """

    def __init__(self, path: Path, *, remap_labels: bool = False) -> None:
        self.path = path
        self.paths = find_records(path)
        self._files = [RecordFile(file) for file in self.paths]
        self.tables: list[ImageTable] = [read_images(f, open_index(f)) for f in self._files]
        sources = [_Stored(table.labels) for table in self.tables]
        numbering = number_datasets([(str(path), sources)], merge="offset", remap=remap_labels)
        self.num_classes, mapping = numbering.num_classes, numbering.mapping
        self.labels = np.concatenate(
            [
                table.labels if lookup is None else lookup[table.labels]
                for table, lookup in zip(self.tables, numbering.lookups, strict=True)
            ]
        ).astype(np.int64)
        self.stored_labels = None if mapping is None else [int(label) for label in mapping]
        labels = self.stored_labels or list(range(self.num_classes))
        self.names = _read_names(self.paths[0].with_name(CLASSES), labels)
        counts = (len(table.labels) for table in self.tables[:-1])
        self._starts = list(accumulate(counts, initial=0))  # first image of each file

    def __len__(self) -> int:
        return len(self.labels)

    def describe(self, index: int) -> str:
        """Return file, key and offset of image `index`."""
        file, offset, key = self._place(index)
        return file.where(offset, key)

    def payload(self, index: int) -> Bytes:
        """Return the whole record of image `index`; raises `RecordError` if it is not there."""
        file, offset, key = self._place(index)
        return file.read(offset, key)

    def read(self, index: int) -> Record:
        """Return the record of image `index` taken apart; raises as `payload`."""
        return unpack_record(self.payload(index))

    def _place(self, index: int) -> tuple[RecordFile, int, int]:
        number = bisect_right(self._starts, index) - 1
        table, row = self.tables[number], index - self._starts[number]
        return self._files[number], int(table.offsets[row]), int(table.keys[row])

    def sizes(self) -> npt.NDArray[np.int64]:
        """Return the bytes of each image; int64 [n]."""
        sizes = np.empty(len(self), np.int64)
        for file, table, start in zip(self._files, self.tables, self._starts, strict=True):
            for rows, headers in file.headers_in_chunks(table.offsets, table.keys):
                sizes[start + rows.start : start + rows.stop] = headers.image_sizes
        return sizes

    def in_file_order(self) -> npt.NDArray[np.int64]:
        """Return the images in the order in which they lie on the disk; int64 [n]."""
        return np.concatenate(
            [
                start + np.argsort(table.offsets, kind="stable")
                for start, table in zip(self._starts, self.tables, strict=True)
            ]
        )

    def release_pages(self) -> None:
        """Give the pages read so far back to the system, where they are no memory of ours."""
        for file in self._files:
            file.release_pages()


def check_label_range(num_classes: int) -> None:
    """Raise `RecordError` for more classes than a float32 label can tell apart."""
    if num_classes > INEXACT_FROM:
        raise RecordError(
            f"{num_classes} classes: labels are float32, which tells {INEXACT_FROM} apart; leave "
            "identities out"
        )


def _read_names(path: Path, labels: list[int]) -> list[str] | None:
    """Return the names of `labels`; None without a file."""
    if not path.is_file():
        return None
    try:
        classes = json.loads(path.read_text(encoding="utf-8"))
        by_label = {int(label): str(name) for name, label in classes.items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise RecordError(
            f"{path} is no list of classes ({error}): expected a JSON object {{name: class}}; "
            "write it again, or delete it"
        ) from error
    missing = [label for label in labels if label not in by_label]
    if missing:
        raise RecordError(
            f"{path} has no name for class {missing[0]} ({len(missing)} such classes): expected "
            "one for each; it is another set's: write it again, or delete it"
        )
    return [by_label[label] for label in labels]
