"""Writes sets of records: one file or several shards, in either layout, with the classes' names.

    train.rec, train.idx                 one file, or
    train-00000.rec, train-00000.idx …   shards: each a whole file of its own, with the class
                                         numbers of the whole set
    property                             `classes,height,width`
    classes.json                         {name: class}, where the classes have names

In the *identity* layout, that of the public face datasets, a file's images are sorted by class and
have the keys 1 … n; records with the keys of each identity follow, then record 0. In the *plain*
layout, that of MXNet's im2rec, the images have the keys 0 … n - 1 in any order and nothing
follows. `data.records.labels` describes how a reader tells them apart.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np

from data.datasets.dataset import RecordDataset
from data.files import writing
from data.records.format import (
    HEADER,
    MAGIC_BYTES,
    Bytes,
    Record,
    RecordError,
    framed_bytes,
    pack_record,
)
from data.records.index import read_index
from data.records.labels import INEXACT_FROM
from data.records.reader import RecordFile
from data.records.writer import RecordWriter, WriterPosition, write_identity_ranges
from data.tools.encoded_image import pixel_size

Layout = Literal["identity", "plain"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)

CLASSES = "classes.json"
PROPERTY = "property"
_RANGE_BYTES = framed_bytes(HEADER.size + 8)  # of an identity's record, and of record 0
_SIZE = re.compile(r"\s*(0*[1-9]\d*)([KMGT]?)B?\s*", re.ASCII | re.IGNORECASE)


def parse_bytes(text: str) -> int:
    """Return the number of bytes that `2G`, `500M` or `1000000` means; raises `ValueError`."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(
            f"{text!r} is not a size: expected a number of bytes such as 2G, 500M, 4096"
        )
    return int(match[1]) << 10 * " KMGT".index(match[2].upper() or " ")


@dataclass(frozen=True)
class Sharding:
    """Where a set is cut into shards: by default nowhere, or by one of the two.

    Raises `ValueError` for both at once and for numbers below 1.
    """

    shards: int | None = None  # files, with numbers of images that differ by at most one
    shard_bytes: int | None = None  # most bytes of a `.rec`, except for one image that is larger

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
        # As part_range in recognition.distributed, which imports torch: that takes seconds.
        size, larger = divmod(total, self.shards or 1)  # the first `larger` have one image more
        if position < larger * (size + 1):
            return (position // (size + 1) + 1) * (size + 1)
        return total - (total - 1 - position) // size * size


@dataclass(frozen=True)
class SetPosition:
    """How far a set is safely on the disk."""

    shard: int  # that is being written; all before it are whole
    stop: int  # the first position that is not in it, by the number of shards
    file: WriterPosition  # how far its files are

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Return the position whose `asdict` is `values`."""
        file = {name: int(value) for name, value in values["file"].items()}
        return cls(int(values["shard"]), int(values["stop"]), WriterPosition(**file))


class RecordSetWriter:
    """Writes the files of a set, one after the other.

    A context manager. Each file appears under its name when it is whole; after an exception the
    unfinished one is deleted, unless `checkpoint` was called, after which it can be resumed.

    In the identity layout the images must come sorted by class. `resume` continues from this
    position of an earlier writer with the same arguments.

    Raises `ValueError` for no images, or fewer than shards, and `WriteError` as `RecordWriter`.
    """

    def __init__(
        self,
        folder: Path,  # exists
        *,
        total: int,  # number of images that are to come; fewer may
        layout: Layout,
        sharding: Sharding | None = None,  # by default there is one file
        resume: SetPosition | None = None,
    ) -> None:
        sharding = sharding or Sharding()
        if total < (sharding.shards or 1):
            raise ValueError(
                f"{folder}: {total} images for {sharding.shards or 1} files: expected at least one "
                "each"
            )
        self.folder, self._total, self._layout, self._sharding = folder, total, layout, sharding
        self._first_key = 1 if layout == "identity" else 0
        self._start_file(0)
        if resume is None:
            self._writer = RecordWriter(self._path(0))
        else:
            self._resume(resume)

    def _path(self, shard: int) -> Path:
        name = "train" if self._sharding == Sharding() else f"train-{shard:05d}"
        return self.folder / f"{name}.rec"

    def _start_file(self, shard: int) -> None:
        self._shard, self._stop = shard, 0
        self._images = 0  # in this file
        self._starts: list[int] = []  # first key of each class in this file
        self._label = -1

    def _resume(self, at: SetPosition) -> None:
        self._shard, self._stop = at.shard, at.stop
        path = self._path(at.shard)
        for final in (path, path.with_suffix(".idx")):
            if final.exists():  # the file was finished after the position was saved
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
            self._start_file(self._shard + 1)
            self._writer = RecordWriter(self._path(self._shard))
        key = self._first_key + self._images
        if self._images == 0:
            self._stop = self._sharding.stop(position, self._total)
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
        if self._sharding.shard_bytes is None:
            return False
        # A record is split at a magic, which costs at most one more frame and padding.
        splits = bytes(image).count(MAGIC_BYTES)
        size = self._writer.offset + framed_bytes(payload_bytes) + 8 * splits
        if self._layout == "identity":
            size += _RANGE_BYTES * (1 + len(self._starts) + (label != self._label))
        return size > self._sharding.shard_bytes

    def checkpoint(self) -> SetPosition:
        """Wait until all that was added is on the disk, and return how far that is."""
        return SetPosition(self._shard, self._stop, self._writer.checkpoint())

    def _end_file(self) -> None:
        if self._layout == "identity":
            write_identity_ranges(self._writer, self._starts, self._first_key + self._images)
        self._writer.__exit__(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._writer.__exit__(kind)
        elif self._images == 0:
            self._writer.__exit__(ValueError)
            raise ValueError(f"{self.folder}: no images were given to write: expected at least one")
        else:
            self._end_file()


def check_label_range(num_classes: int) -> None:
    """Raise `RecordError` for more classes than a float32 label can tell apart."""
    if num_classes > INEXACT_FROM:
        raise RecordError(
            f"{num_classes} classes: labels are float32, which tells {INEXACT_FROM} apart; leave "
            "identities out"
        )


def write_set_files(
    folder: Path, num_classes: int, names: Sequence[str] | None, image: Bytes
) -> None:
    """Write the files next to the records: `property`, and `classes.json` where there are names.

    The `names` of the classes 0 … C - 1 are all different. `property` states the size of `image`,
    any of the set, and is left out if that has none.
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


def read_class_names(images: RecordDataset) -> list[str] | None:
    """Return the names of the classes from `classes.json` next to the records; None without it.

    Raises `RecordError` if the file does not name every class.
    """
    return read_label_names(images.files[0].parent, images.stored_labels)


def read_label_names(folder: Path, labels: Sequence[int]) -> list[str] | None:
    """Return the names of labels from `classes.json` in a folder; see `read_class_names`."""
    path = folder / CLASSES
    if not path.is_file():
        return None
    try:
        classes = json.loads(path.read_text(encoding="utf-8"))
        by_label = {int(label): str(name) for name, label in classes.items()}
    except (OSError, ValueError, AttributeError, TypeError, OverflowError, RecursionError) as error:
        raise RecordError(
            f"{path} is not a list of classes ({error}): expected a JSON object {{name: class}}; "
            "write it again, or delete it"
        ) from error
    missing = [label for label in labels if label not in by_label]
    if missing:
        raise RecordError(
            f"{path} has no name for class {missing[0]} ({len(missing)} such classes): expected "
            "one for each; it belongs to another set: write it again, or delete it"
        )
    return [by_label[label] for label in labels]
