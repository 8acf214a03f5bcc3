"""Images with the labels that their files have: opens any location, and reads records.

What a class is called comes from here; `data.datasets.class_ids` makes class ids of that.
"""

import os
import struct
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from data.datasets.class_ids import Labelled
from data.datasets.folders import open_image_files
from data.records.cache import open_images
from data.records.format import HEADER, Bytes, Int64s, RecordError, unpack_record
from data.records.locations import (
    LIST_SUFFIXES,
    DatasetError,
    Location,
    LocationKind,
    is_url,
    location_kind,
    record_url,
    shown,
)
from data.records.reader import RecordFile
from data.records.shards import RECORDS, find_records

_FLAG_AND_LABEL = struct.Struct("<If")
_FIRST_OF_LIST = struct.Struct("<f")


class ImageSource(Protocol):
    """Encoded images by index: a dataset, or the images of a verification set."""

    def encoded(self, index: int) -> Bytes:
        """Return the encoded image at `index`; raises `ValueError` with its location."""

    def describe(self, index: int) -> str:
        """Return the location of the image at `index` in words: file, and any key and offset."""


class StoredImages(ImageSource, Protocol):
    """n encoded images, read by several threads at once; safe to send to worker processes."""

    def __len__(self) -> int: ...

    def storage_order(self) -> Int64s | None:
        """Return the indices in the order in which the files hold the images, int64 [n].

        None if that is the order of the indices: image 0 first, then image 1 and so on.
        """


class LabelledImages(StoredImages, Labelled, Protocol):
    """Images with labels as their files have them."""

    @property
    def location(self) -> Location:
        """Where they are."""


def open_sources(
    location: Location, *, cache_folder: Path | None = None, list_root: Path | None = None
) -> Sequence[LabelledImages]:
    """Open the images at `location`: several sources for shards, otherwise one.

    Raises `DatasetError` for a location without images, for shards that are missing or of
    different layouts, and what the reader of each kind raises.
    """
    match location_kind(location):
        case LocationKind.URL:
            return [RecordImages(record_url(str(location)), cache_folder=cache_folder)]
        case LocationKind.RECORDS:
            return open_shards(location, cache_folder=cache_folder)
        case LocationKind.FOLDER | LocationKind.LIST:
            return [open_image_files(Path(location), root=list_root)]
    state = "is none of what can be read" if os.path.exists(location) else "does not exist"
    raise DatasetError(
        f"{location} {state}: expected {RECORDS}; a folder with one sub-folder of images per "
        f"identity; or a list ({', '.join(LIST_SUFFIXES)})"
    )


def open_shards(
    location: Location, *, cache_folder: Path | None = None
) -> Sequence["RecordImages"]:
    """Open the `.rec` files of one dataset; see `data.records.shards.find_records`."""
    shards = [RecordImages(file, cache_folder=cache_folder) for file in find_records(location)]
    for shard in shards[1:]:
        if shard.has_header != shards[0].has_header:
            with_header, without = sorted((shards[0], shard), key=lambda s: not s.has_header)
            raise DatasetError(
                f"{location} mixes layouts: {with_header.location} has a header record, "
                f"{without.location} has none; expected shards of one dataset; list different "
                "datasets one by one in data.train, or write the shards again"
            )
    return shards


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
            f"{shown(location)}: URLs need packages that are missing ({error}): "
            "pip install -e '.[remote]'"
        ) from error
    return RemoteRecordFile(str(location), cache_folder=cache_folder)


class RecordImages:
    """The images of a `.rec` file, in the order of its `.idx`.

    With a header record that is the order of the keys 1 … n; without an `.idx`, the order of the
    file. A pickle holds the location: the process that receives it opens the file again, and maps
    the same cached table. Raises `RecordError` for damaged RecordIO and for records that are not
    labelled images.
    """

    def __init__(self, location: Location, *, cache_folder: Path | None = None) -> None:
        self.location = location
        self.names: Sequence[int | str] | None = None
        self._cache_folder = cache_folder
        self.file = open_record_file(location, cache_folder=cache_folder)
        table = open_images(self.file, cache_folder=cache_folder)
        self.keys, self.labels, self.has_header = table.keys, table.labels, table.has_header
        self.offsets = table.offsets
        self.file.know_offsets(table.offsets)

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(RecordImages, self.location, cache_folder=self._cache_folder), ()

    def __len__(self) -> int:
        return len(self.offsets)

    def payload(self, index: int) -> Bytes:
        """Return the payload of the record of image `index`, without a copy unless it is in parts.

        Raises `RecordError` if no whole record is there any more.
        """
        return self.file.read(int(self.offsets[index]), int(self.keys[index]))

    def encoded(self, index: int) -> Bytes:
        """Return the encoded image at `index`, without a copy unless its record is in parts.

        Raises `RecordError` if no record with an image of this label is there any more.
        """
        payload = self.payload(index)
        if len(payload) > HEADER.size:
            flag, label = _FLAG_AND_LABEL.unpack_from(payload)
            image = payload[HEADER.size + 4 * flag :]
            if flag and len(image):
                (label,) = _FIRST_OF_LIST.unpack_from(payload, HEADER.size)
            # A comparison with a NumPy integer would take as long as all the rest.
            if len(image) and label == int(self.labels[index]):
                return image
        raise self._refusal(index, payload)

    def describe(self, index: int) -> str:
        """Return file, key and offset of the image at `index`."""
        return self.file.where(int(self.offsets[index]), int(self.keys[index]))

    def image_sizes(self) -> Int64s:
        """Return the bytes of each image, read from the records' headers; int64 [n]."""
        sizes = np.empty(len(self), np.int64)
        for rows, headers in self.file.headers_in_chunks(self.offsets, self.keys):
            sizes[rows] = headers.image_sizes
        return sizes

    def storage_order(self) -> Int64s | None:
        """Return the indices in the order of the offsets; None where those ascend."""
        if (self.offsets[1:] >= self.offsets[:-1]).all():
            return None
        return np.argsort(self.offsets, kind="stable")

    def prefetch(self, indices: Int64s, *, whole_blocks: bool = False) -> None:
        """Start to fetch images of a remote file; see `data.datasets.dataset.Prefetching`."""
        self.file.prefetch(self.offsets[indices], whole_blocks=whole_blocks)

    def _refusal(self, index: int, payload: Bytes) -> RecordError:
        try:
            record = unpack_record(payload)
            found = f"label {record.labels[0]:g} and {len(record.image)} bytes of image"
        except RecordError as error:
            found = str(error)
        return RecordError(
            f"{self.describe(index)}: found {found}; expected label {self.labels[index]} and an "
            "image: the file was changed while in use, or its identities' key ranges do not fit "
            "its images; write it again"
        )
