"""Class ids from 0 on, made from the labels of one or more datasets."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from data.records.format import Int32s, Int64s

logger = logging.getLogger(__name__)

_CHUNK = 1 << 20  # labels that NumPy may widen to 64 bits at a time

Merge = Literal["offset", "by_name", "separate"]
Label = int | str
# Of one dataset, or by dataset: the class of each label or name.
ClassMapping = dict[Label, int] | dict[str, dict[Label, int]]
_Lookup = Int32s | None


class NumberingError(ValueError):
    """Labels that cannot be made into classes; says which and how to fix it."""


class Labelled(Protocol):
    """Labels as a source of images has them."""

    @property
    def labels(self) -> Int32s:
        """Label of each image, 0 or more; int32 [n]."""

    @property
    def names(self) -> Sequence[Label] | None:
        """What each label stands for, all whole numbers or all texts; None: for itself."""


@dataclass(frozen=True)
class Numbering:
    """The classes that labels became."""

    # For each source the class of each of its labels, int32 [largest label + 1], -1 for labels
    # without an image; None where labels are classes already.
    lookups: Sequence[_Lookup]
    num_classes: int
    mapping: ClassMapping | None  # None if the labels of a single dataset are its classes
    # Of datasets that are kept separate, the number of each one's classes, by its name.
    separate: Mapping[str, int] = field(default_factory=dict)

    def classes(self, sources: Sequence[Labelled]) -> Int32s:
        """Return the classes of all images of the sources; of a single one without a copy."""
        if len(sources) == 1 and self.lookups[0] is None:
            return sources[0].labels
        classes = np.empty(sum(len(source.labels) for source in sources), np.int32)
        start = 0
        for source, lookup in zip(sources, self.lookups, strict=True):
            for first in range(0, len(source.labels), _CHUNK):
                labels = source.labels[first : first + _CHUNK]
                stop = start + len(labels)
                classes[start:stop] = labels if lookup is None else lookup[labels]
                start = stop
        return classes


def number_datasets(
    datasets: Sequence[tuple[str, Sequence[Labelled]]], *, merge: Merge, remap: bool
) -> Numbering:
    """Number the classes of named datasets, each of one source or of several with common labels.

    With `merge` "offset" or "separate" the classes of a dataset follow those of the one before;
    with "by_name" equal labels or names in two datasets are the same class. Numbers come first, in
    their order, then names in theirs.

    Raises `NumberingError` with the first gap where whole numbers do not run from 0 on, unless
    `remap` is set, which renumbers the labels in use.
    """
    groups = [(name, [_Part.of(source) for source in sources]) for name, sources in datasets]
    parts = [part for _, group in groups for part in group]
    spaces = [(", ".join(name for name, _ in groups), parts)] if merge == "by_name" else groups
    classes: list[Int32s] = []  # of each part's names
    num_classes, counts = 0, {}
    for name, group in spaces:
        of_parts, counts[name] = _number(name, group, remap)
        classes += [of_part + np.int32(num_classes) for of_part in of_parts]
        num_classes += counts[name]
    separate = counts if merge == "separate" else {}
    lookups = [part.lookup(of_part) for part, of_part in zip(parts, classes, strict=True)]
    if len(groups) == 1 and all(
        isinstance(part.names, np.ndarray) and np.array_equal(part.names, of_part)
        for part, of_part in zip(parts, classes, strict=True)
    ):
        return Numbering(lookups, num_classes, None, separate)
    by_dataset: dict[str, dict[Label, int]] = {name: {} for name, _ in groups}
    owners = [name for name, group in groups for _ in group]
    for name, part, of_part in zip(owners, parts, classes, strict=True):
        labels = part.names.tolist() if isinstance(part.names, np.ndarray) else part.names
        by_dataset[name].update(zip(labels, of_part.tolist(), strict=True))
    if len(groups) == 1:
        return Numbering(lookups, num_classes, by_dataset[groups[0][0]], separate)
    if merge == "by_name":
        shared = sum(map(len, by_dataset.values())) - num_classes
        logger.info("merged by name: %d classes; %d labels were known already", num_classes, shared)
    return Numbering(lookups, num_classes, by_dataset, separate)


@dataclass(frozen=True)
class _Part:
    """The k labels of a source that an image has."""

    used: Int64s  # [k], ascending
    names: Int64s | list[str]  # what they stand for: [k], or k texts

    @classmethod
    def of(cls, source: Labelled) -> "_Part":
        labels, names = source.labels, source.names
        present = np.zeros(int(labels.max()) + 1, np.bool_)
        for start in range(0, len(labels), _CHUNK):
            present[labels[start : start + _CHUNK]] = True
        used = np.flatnonzero(present)
        if names is None:
            return cls(used, used)
        of_used = [names[label] for label in used.tolist()]
        texts = [name for name in of_used if isinstance(name, str)]
        return cls(used, texts if texts else np.array(of_used, np.int64))

    def lookup(self, classes: Int32s) -> _Lookup:
        """Return the class of each label, given those of `names`."""
        if np.array_equal(self.used, classes):
            return None
        lookup = np.full(self.used[-1] + 1, -1, np.int32)
        lookup[self.used] = classes
        return lookup


def _number(name: str, parts: Sequence[_Part], remap: bool) -> tuple[list[Int32s], int]:
    """Return the classes of the names of parts with common labels, int32 [k], and their number.

    `name` is that of the dataset or datasets, for the message.
    """
    numeric = [part.names for part in parts if isinstance(part.names, np.ndarray)]
    # NumPy's unique hashes, which takes longer than the rest of opening a large dataset.
    in_order = np.sort(np.concatenate([np.empty(0, np.int64), *numeric]))
    numbers = np.concatenate([in_order[:1], in_order[1:][in_order[1:] != in_order[:-1]]])
    if not remap and len(numbers) and numbers[-1] != len(numbers) - 1:
        gap = int(np.flatnonzero(numbers != np.arange(len(numbers)))[0])
        raise NumberingError(
            f"{name}: the labels have gaps: no image has {gap}, the next label is {numbers[gap]} "
            f"(labels in use: {len(numbers)}, from {numbers[0]} to {numbers[-1]}); expected every "
            "number from 0 on: set remap_labels to renumber them, with the mapping saved"
        )
    texts = sorted({text for part in parts if isinstance(part.names, list) for text in part.names})
    class_of = {text: len(numbers) + row for row, text in enumerate(texts)}
    return [
        np.searchsorted(numbers, part.names).astype(np.int32)
        if isinstance(part.names, np.ndarray)
        else np.array([class_of[text] for text in part.names], np.int32)
        for part in parts
    ], len(numbers) + len(texts)
