"""Labelled face images as one dataset: from one source or many, with class ids from 0 on."""

from bisect import bisect_right
from collections.abc import Hashable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from data.datasets.class_ids import ClassMapping, Merge, Numbering, number_datasets
from data.datasets.folders import ListImages
from data.datasets.sources import (
    LabelledImages,
    RecordImages,
    StoredImages,
    open_shards,
    open_sources,
)
from data.records.format import Bytes, Int64s, Record, unpack_record
from data.records.locations import DatasetError as DatasetError
from data.records.locations import Location, same_file_key, short_names, shown


class FaceDataset(StoredImages, Protocol):
    """What training needs of a dataset of n images."""

    @property
    def labels(self) -> npt.NDArray[np.signedinteger[Any]]:
        """Class of each image, from 0 to `num_classes - 1`; int32 or int64 [n]."""

    def classes(self, indices: Int64s) -> Int64s:
        """Return the class of each image at `indices`, int64 [m] both."""

    @property
    def num_classes(self) -> int:
        """Number of classes; each has an image."""

    @property
    def class_mapping(self) -> ClassMapping | None:
        """Class of each original label or folder name, by dataset if there are several.

        None if the labels of a single dataset are used as they are.
        """


@runtime_checkable
class Prefetching(Protocol):
    """What a dataset with remote images has in addition to `FaceDataset`."""

    def prefetch(self, indices: Int64s, *, whole_blocks: bool = False) -> None:
        """Start to fetch the images at `indices`, int64 [m], which are read next; do not wait.

        `whole_blocks` fetches their neighbours too, for orders in which those follow soon.
        """


def open_dataset(
    train: Location | Sequence[Location],
    *,
    merge: Merge = "offset",
    remap_labels: bool = False,  # renumber the classes if labels have gaps
    cache_folder: Path | None = None,  # of what cannot be next to the data; by default the user's
    list_root: Path | None = None,  # of the paths in lists; by default the list's folder
) -> "ImageDataset":
    """Open the images that `train` names as one dataset and check their labels.

    Each location is a `.rec` file, with or without its `.idx`, or its URL; a pattern of such, which
    are shards with common labels; a folder with `train.rec` or its shards; a folder with one
    sub-folder of images per identity; or a list. Of several, the classes of each follow those of
    the one before ("offset", and "separate", for a head of each), or equal labels or names are one
    class ("by_name").

    Raises `DatasetError` for a location that is none of these or is named twice, `RecordError` for
    RecordIO that is damaged or has records that are not labelled images, `ListError` for a list
    that makes no sense, and `NumberingError` for labels with gaps.
    """
    locations = [train] if isinstance(train, str | Path) else train
    if not locations:
        raise DatasetError("data.train names no dataset: expected at least one location")
    names = [shown(location) for location in locations]
    datasets = [
        (
            # Two URLs may differ in their queries alone.
            name if names.count(name) == 1 else f"{name} [{number}]",
            open_sources(location, cache_folder=cache_folder, list_root=list_root),
        )
        for number, (name, location) in enumerate(zip(names, locations, strict=True))
    ]
    sources = [source for _, group in datasets for source in group]
    refuse_repeated(sources)
    if list_root is not None and not any(isinstance(source, ListImages) for source in sources):
        raise DatasetError(
            f"list_root is {list_root}, and {', '.join(names)} has no list file: "
            "leave list_root out"
        )
    return ImageDataset(sources, number_datasets(datasets, merge=merge, remap=remap_labels))


def open_records(location: Location, *, remap_labels: bool = False) -> "RecordDataset":
    """Open the records of one dataset; see `data.records.shards.find_records`.

    Raises `DatasetError`, `RecordError` and `NumberingError` as `open_dataset`.
    """
    shards = open_shards(location)
    datasets = [(str(location), shards)]
    return RecordDataset(shards, number_datasets(datasets, merge="offset", remap=remap_labels))


def refuse_repeated(sources: Sequence[LabelledImages]) -> None:
    """Raise `DatasetError` if two sources are the same file or folder, whatever links lead to it.

    Its people would be two classes each, which training would push apart.
    """
    seen: dict[Hashable, Location] = {}
    for source in sources:
        key = same_file_key(source.location)
        if key in seen:
            raise DatasetError(
                f"{source.location} is named twice, the first time as {seen[key]}: expected every "
                "file once; leave one out"
            )
        seen[key] = source.location


class ImageDataset:
    """The images of sources one after another, with classes from `numbering`.

    A pickle holds file paths and small tables; what is mapped is mapped again. If the labels of a
    single source are classes already, they are used without a copy. `separate` has the number of
    classes of each dataset by its short name, if they are kept separate.
    """

    def __init__(self, sources: Sequence[LabelledImages], numbering: Numbering) -> None:
        self.sources = sources
        self._numbering = numbering
        self._starts = list(accumulate(map(len, sources), initial=0))
        self.num_classes, self.class_mapping = numbering.num_classes, numbering.mapping
        names = short_names(list(numbering.separate))
        self.separate: Mapping[str, int] = dict(
            zip(names, numbering.separate.values(), strict=True)
        )
        self.labels = numbering.classes(sources)  # int32 [n]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.sources, self._numbering)

    def __len__(self) -> int:
        return self._starts[-1]

    def classes(self, indices: Int64s) -> Int64s:
        """See `FaceDataset`."""
        return self.labels[indices].astype(np.int64)

    def storage_order(self) -> Int64s | None:
        """Return the indices source by source, each in the order of its storage."""
        orders = [source.storage_order() for source in self.sources]
        if all(order is None for order in orders):
            return None
        return np.concatenate(
            [
                start + (np.arange(len(source)) if order is None else order)
                for start, source, order in zip(self._starts, self.sources, orders, strict=False)
            ]
        )

    def prefetch(self, indices: Int64s, *, whole_blocks: bool = False) -> None:
        """See `Prefetching`; does something for remote sources only."""
        numbers = np.searchsorted(self._starts, indices, side="right") - 1
        for number in np.unique(numbers).tolist():
            source = self.sources[number]
            if isinstance(source, Prefetching):
                rows = indices[numbers == number] - self._starts[number]
                source.prefetch(rows, whole_blocks=whole_blocks)

    def encoded(self, index: int) -> Bytes:
        """Return the encoded image at `index`; raises `ValueError` with its location."""
        number, row = self._locate(index)
        return self.sources[number].encoded(row)

    def describe(self, index: int) -> str:
        """Return the location of the image at `index` in words."""
        number, row = self._locate(index)
        return self.sources[number].describe(row)

    def _locate(self, index: int) -> tuple[int, int]:
        """Return the number of the source that image `index` is in, and its index there."""
        number = bisect_right(self._starts, index) - 1
        return number, index - self._starts[number]


class RecordDataset(ImageDataset):
    """The images of `.rec` files, with whole records, for tools."""

    sources: Sequence[RecordImages]

    @property
    def files(self) -> list[Path]:
        """The `.rec` files."""
        return [Path(source.location) for source in self.sources]

    @property
    def stored_labels(self) -> list[int]:
        """The label of each class in the files."""
        mapping: dict[Any, Any] | None = self.class_mapping
        if mapping is None:
            return list(range(self.num_classes))
        return sorted(mapping, key=mapping.__getitem__)

    def payload(self, index: int) -> Bytes:
        """Return the payload of the record of image `index`; raises `RecordError` without one."""
        number, row = self._locate(index)
        return self.sources[number].payload(row)

    def record(self, index: int) -> Record:
        """Return the record of image `index`; raises as `payload`."""
        return unpack_record(self.payload(index))

    def image_sizes(self) -> Int64s:
        """Return the bytes of each image; int64 [n]."""
        return np.concatenate([source.image_sizes() for source in self.sources])

    def in_storage_order(self) -> Int64s:
        """Return the indices in the order in which the files hold the images, int64 [n]."""
        order = self.storage_order()
        return np.arange(len(self)) if order is None else order

    def release_pages(self) -> None:
        """Release the memory of the pages read so far; they stay in the system's cache."""
        for source in self.sources:
            source.file.release_pages()
