"""Images with the labels that their files give: what a location means, and the reader of records.

What a class is called comes from here; `data.datasets.class_ids` makes numbers from 0 on of that.
"""

import struct
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from data.datasets.folders import FolderImages, ListImages
from data.records.cache import open_images
from data.records.format import HEADER, Bytes, RecordError, unpack_record
from data.records.locations import (
    LIST_SUFFIXES,
    DatasetError,
    Location,
    LocationKind,
    location_kind,
    record_url,
)
from data.records.open import open_record_file
from data.records.shards import RECORDS, find_records

_FLAG_AND_LABEL = struct.Struct("<If")
_FIRST_OF_LIST = struct.Struct("<f")
_EXPECTED = (
    f"expected {RECORDS}; a folder with one sub-folder of images for each identity; or a list "
    f"({', '.join(LIST_SUFFIXES)})"
)


class LabelledImages(Protocol):
    """n images and their labels as they were found; safe to hand to worker processes."""

    @property
    def location(self) -> Location:
        """Where they are."""

    @property
    def labels(self) -> npt.NDArray[np.int32]:
        """Label of each image, 0 or more; int32 [n]."""

    @property
    def names(self) -> Sequence[int | str] | None:
        """What each label stands for, all whole numbers or all texts; None: for itself."""

    def __len__(self) -> int: ...

    def encoded(self, index: int) -> Bytes:
        """Return the encoded image at `index`; `ValueError` with its place if it cannot be read."""

    def describe(self, index: int) -> str:
        """Return the place of the image at `index` in words."""

    def storage_order(self) -> npt.NDArray[np.int64] | None:
        """Return the indices in the order of the storage, int64 [n]; None where that is theirs."""


def open_sources(
    location: Location, *, cache_folder: Path | None = None, list_root: Path | None = None
) -> Sequence[LabelledImages]:
    """Open the images at `location`: several sources for shards, else one.

    What `data.records.shards.find_records` finds is records, a URL stands for one file.

    Raises `DatasetError` for a location that holds none, for shards that are missing or of
    different layouts, and what the reader of each kind raises.
    """
    match location_kind(location):
        case LocationKind.URL:
            return [RecordImages(record_url(str(location)), cache_folder=cache_folder)]
        case LocationKind.LIST:
            listed = ListImages(Path(location), root=list_root)
            listed.look_for_files()
            return [listed]
        case LocationKind.FOLDER:
            return [FolderImages(Path(location))]
        case None:
            state = "is none of what can be read" if Path(location).exists() else "does not exist"
            raise DatasetError(f"{location} {state}: {_EXPECTED}")
    shards = [RecordImages(file, cache_folder=cache_folder) for file in find_records(location)]
    _check_layouts(location, shards)
    return shards


def _check_layouts(location: Location, shards: Sequence["RecordImages"]) -> None:
    for shard in shards[1:]:
        if shard.has_header != shards[0].has_header:
            with_header, without = sorted((shards[0], shard), key=lambda s: not s.has_header)
            raise DatasetError(
                f"{location} mixes layouts: {with_header.location} has a header record, "
                f"{without.location} has none; expected shards of one dataset; list different "
                "datasets one by one in data.train, or write the shards again"
            )


class RecordImages:
    """The images of a `.rec` file, in the order of its `.idx`.

    In the layout with a header record that is the order of the keys 1 … n; without an `.idx`, the
    order of the file. A pickle holds the location: the process that gets it opens the file again,
    and maps the same cached table. Raises `RecordError` for damaged RecordIO and for records
    that are no labelled image.

    Attributes:
        location: of the `.rec` file.
        keys: of the images; int64 [n], or a range where they follow one another.
        has_header: whether the file is in the layout with a header record.
        labels, names: see `LabelledImages`.
    """

    def __init__(self, location: Location, *, cache_folder: Path | None = None) -> None:
        self.location = location
        self.names: Sequence[int | str] | None = None
        self._cache_folder = cache_folder
        self._file = open_record_file(location, cache_folder=cache_folder)
        self._table = open_images(self._file, cache_folder=cache_folder)
        self._file.know_offsets(self._table.offsets)

    def __reduce__(self) -> tuple[Callable[[], "RecordImages"], tuple[()]]:
        return partial(RecordImages, self.location, cache_folder=self._cache_folder), ()

    @property
    def keys(self) -> npt.NDArray[np.int64] | range:
        """Keys of the images."""
        return self._table.keys

    @property
    def has_header(self) -> bool:
        """Whether the file is in the layout with a header record."""
        return self._table.has_header

    @property
    def labels(self) -> npt.NDArray[np.int32]:
        """Label of each image."""
        return self._table.labels

    def __len__(self) -> int:
        return len(self._table.offsets)

    def encoded(self, index: int) -> Bytes:
        """Return the encoded image at `index`, without a copy unless its record is in parts.

        Raises `RecordError` if no record with an image of this label is there any more.
        """
        table = self._table
        payload = self._file.read(int(table.offsets[index]), int(table.keys[index]))
        if len(payload) > HEADER.size:
            flag, label = _FLAG_AND_LABEL.unpack_from(payload)
            image = payload[HEADER.size + 4 * flag :]
            if flag and len(image):
                (label,) = _FIRST_OF_LIST.unpack_from(payload, HEADER.size)
            # A comparison with a NumPy integer would take as long as all of this together.
            if len(image) and label == int(table.labels[index]):
                return image
        raise self._refusal(index, payload)

    def describe(self, index: int) -> str:
        """Return file, key and offset of the image at `index`."""
        return self._file.where(int(self._table.offsets[index]), int(self.keys[index]))

    def storage_order(self) -> npt.NDArray[np.int64] | None:
        """Return the indices in the order of the offsets; None where those ascend."""
        offsets = self._table.offsets
        if (offsets[1:] >= offsets[:-1]).all():
            return None
        return np.argsort(offsets, kind="stable")

    def prefetch(self, indices: npt.NDArray[np.int64], *, whole_blocks: bool = False) -> None:
        """Start to fetch images of a remote file; see `data.datasets.dataset.Prefetching`."""
        self._file.prefetch(self._table.offsets[indices], whole_blocks=whole_blocks)

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
