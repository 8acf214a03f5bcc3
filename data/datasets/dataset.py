"""Labelled face images as one dataset: from one source or many, their classes numbered from 0."""

from bisect import bisect_right
from collections.abc import Callable, Hashable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from data.datasets.class_ids import ClassMapping, Merge, Numbering, number_datasets
from data.datasets.folders import ListImages
from data.datasets.sources import LabelledImages, open_sources
from data.records.format import Bytes
from data.records.locations import DatasetError as DatasetError
from data.records.locations import Location, same_file_key

_AT_ONCE = 1 << 20


class FaceDataset(Protocol):
    """What training needs of a dataset of n images; safe to hand to worker processes."""

    @property
    def labels(self) -> npt.NDArray[np.signedinteger[Any]]:
        """Class of each image, from 0 to `num_classes - 1`; int32 or int64 [n]."""

    @property
    def num_classes(self) -> int:
        """Number of classes; each has an image."""

    @property
    def class_mapping(self) -> ClassMapping | None:
        """Class of each original label or folder name, by dataset where there are several.

        None where the labels of a single dataset are used as they are.
        """

    def __len__(self) -> int: ...

    def storage_order(self) -> npt.NDArray[np.int64] | None:
        """Return the indices in the order in which the files hold the images, int64 [n].

        None where that is the order of the indices: image 0 first, then image 1 and so on.
        """

    def encoded(self, index: int) -> Bytes:
        """Return the encoded image at `index`; `ValueError` with its place if it cannot be read."""

    def describe(self, index: int) -> str:
        """Return the place of the image at `index` in words: file, and key and offset if any."""


@runtime_checkable
class Prefetching(Protocol):
    """What a dataset has whose images may come from far away, beside `FaceDataset`."""

    def prefetch(self, indices: npt.NDArray[np.int64], *, whole_blocks: bool = False) -> None:
        """Start to fetch the images at `indices`, int64 [m], which are read next; do not wait.

        `whole_blocks` fetches their neighbours too, for orders in which those follow soon.
        """


def open_dataset(
    train: Location | Sequence[Location],
    *,
    merge: Merge = "offset",
    remap_labels: bool = False,
    cache_folder: Path | None = None,
    list_root: Path | None = None,
) -> "ImageDataset":
    """Open the images that `train` names as one dataset and check their labels.

    Args:
        train: one location or several to be merged. Each is a `.rec` file, with its `.idx` beside
            it or none, or its URL; a pattern of such, which are shards with common labels; a folder
            with `train.rec` or its shards; a folder with one sub-folder of images for each
            identity; or a list.
        merge: how classes of several are numbered: those of each after those of the one before
            ("offset"), or what has the same label or name as one class ("by_name").
        remap_labels: number the classes afresh where labels have gaps; `class_mapping` then holds
            what became of each.
        cache_folder: for indexes of files whose folder cannot be written; the user's by default.
        list_root: what the paths in list files are relative to; the list's folder by default.

    Raises `DatasetError` for a location that is none of these or is named twice, `RecordError` for
    RecordIO that is damaged or has records that are no labelled image, `ListError` for a list that
    makes no sense, and `NumberingError` for labels with gaps.
    """
    locations = [train] if isinstance(train, str | Path) else train
    if not locations:
        raise DatasetError("data.train names no dataset: expected at least one location")
    datasets = [
        (str(location), open_sources(location, cache_folder=cache_folder, list_root=list_root))
        for location in locations
    ]
    sources = [source for _, group in datasets for source in group]
    _refuse_repeated(sources)
    if list_root is not None and not any(isinstance(source, ListImages) for source in sources):
        raise DatasetError(
            f"list_root is {list_root}, and {', '.join(map(str, locations))} has no list file: "
            "leave list_root out"
        )
    return ImageDataset(sources, number_datasets(datasets, merge=merge, remap=remap_labels))


def _refuse_repeated(sources: Sequence[LabelledImages]) -> None:
    seen: dict[Hashable, Location] = {}
    for source in sources:
        key = same_file_key(source.location)
        if key in seen:
            raise DatasetError(
                f"{source.location} is in the dataset twice, the first time as {seen[key]}: "
                "expected every file once; mend data.train"
            )
        seen[key] = source.location


class ImageDataset:
    """The images of sources one after another, as `numbering` says for their labels.

    A pickle holds places of files and small tables; what is mapped is mapped again. Labels of a
    single source that are classes already are the source's own, without a copy.

    Attributes:
        sources: where the images come from.
        labels: int32 [n]; see `FaceDataset`, as for the others.
    """

    def __init__(self, sources: Sequence[LabelledImages], numbering: Numbering) -> None:
        self.sources = sources
        self._numbering = numbering
        self._starts = list(accumulate(map(len, sources), initial=0))
        self.labels = _join(sources, numbering)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self._numbering.num_classes

    @property
    def class_mapping(self) -> ClassMapping | None:
        """Class of each original label or name."""
        return self._numbering.mapping

    def __reduce__(
        self,
    ) -> tuple[
        Callable[[Sequence[LabelledImages], Numbering], "ImageDataset"],
        tuple[Sequence[LabelledImages], Numbering],
    ]:
        return ImageDataset, (self.sources, self._numbering)

    def __len__(self) -> int:
        return self._starts[-1]

    def storage_order(self) -> npt.NDArray[np.int64] | None:
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

    def prefetch(self, indices: npt.NDArray[np.int64], *, whole_blocks: bool = False) -> None:
        """See `Prefetching`; of use to remote sources only."""
        places = np.searchsorted(self._starts, indices, side="right") - 1
        for place in np.unique(places).tolist():
            source = self.sources[place]
            if isinstance(source, Prefetching):
                own = indices[places == place] - self._starts[place]
                source.prefetch(own, whole_blocks=whole_blocks)

    def encoded(self, index: int) -> Bytes:
        """Return the encoded image at `index`; `ValueError` with its place if it cannot be read."""
        place = bisect_right(self._starts, index) - 1
        return self.sources[place].encoded(index - self._starts[place])

    def describe(self, index: int) -> str:
        """Return the place of the image at `index` in words."""
        place = bisect_right(self._starts, index) - 1
        return self.sources[place].describe(index - self._starts[place])


def _join(sources: Sequence[LabelledImages], numbering: Numbering) -> npt.NDArray[np.int32]:
    """Return the classes of all images."""
    if len(sources) == 1 and numbering.lookups[0] is None:
        return sources[0].labels
    labels = np.empty(sum(map(len, sources)), np.int32)
    start = 0
    for source, lookup in zip(sources, numbering.lookups, strict=True):
        # NumPy widens what it looks up to 64 bits: hence not all at once.
        for first in range(0, len(source), _AT_ONCE):
            own = source.labels[first : first + _AT_ONCE]
            labels[start : start + len(own)] = own if lookup is None else lookup[own]
            start += len(own)
    return labels
