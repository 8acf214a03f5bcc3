"""Class numbers from 0 on, made of the labels of one or more datasets."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

logger = logging.getLogger(__name__)

_AT_ONCE = 1 << 20  # labels that NumPy may widen to 64 bits at a time

Merge = Literal["offset", "by_name"]
Label = int | str
# Of one dataset, or by dataset: the class that each label or name became.
ClassMapping = dict[Label, int] | dict[str, dict[Label, int]]


class NumberingError(ValueError):
    """Labels of which no classes can be made; says which, and the mend."""


class Labelled(Protocol):
    """Labels as a source of images has them."""

    @property
    def labels(self) -> npt.NDArray[np.int32]:
        """Label of each image, 0 or more; int32 [n]."""

    @property
    def names(self) -> Sequence[Label] | None:
        """What each label stands for, all whole numbers or all texts; None: for itself."""


@dataclass(frozen=True)
class Numbering:
    """What became of all labels.

    Attributes:
        lookups: for each source the class of each of its labels, int32 [largest label + 1], -1 for
            labels without an image; None where label and class are the same.
        num_classes: C.
        mapping: see `ClassMapping`; None where the labels of a single dataset are its classes.
    """

    lookups: Sequence[npt.NDArray[np.int32] | None]
    num_classes: int
    mapping: ClassMapping | None


def number_datasets(
    datasets: Sequence[tuple[str, Sequence[Labelled]]], *, merge: Merge, remap: bool
) -> Numbering:
    """Number the classes of named datasets, each of one source or of several with common labels.

    With `merge` "offset" the classes of a dataset follow those of the one before; with "by_name"
    what has the same label or name in two datasets is the same class. Numbers come first, in their
    order, then names in theirs.

    Raises `NumberingError` with the first gap where whole numbers do not run from 0 on, unless
    `remap` is set, which numbers what is there afresh.
    """
    names = [name for name, _ in datasets]
    groups = [[_part(source) for source in sources] for _, sources in datasets]
    parts = [part for group in groups for part in group]
    spaces = [(", ".join(names), parts)] if merge == "by_name" else zip(names, groups, strict=True)
    classes: list[npt.NDArray[np.int32]] = []  # of each part's names
    num_classes = 0
    for name, together in spaces:
        of_parts, count = _classes(name, together, remap)
        classes += [of_part + np.int32(num_classes) for of_part in of_parts]
        num_classes += count
    lookups = [_lookup(part, of_part) for part, of_part in zip(parts, classes, strict=True)]
    are_plain = all(
        isinstance(part.names, np.ndarray) and np.array_equal(part.names, of_part)
        for part, of_part in zip(parts, classes, strict=True)
    )
    if len(datasets) == 1 and are_plain:
        return Numbering(lookups, num_classes, None)
    by_dataset: dict[str, dict[Label, int]] = {name: {} for name in names}
    owners = [name for name, group in zip(names, groups, strict=True) for _ in group]
    for name, part, of_part in zip(owners, parts, classes, strict=True):
        labels = part.names.tolist() if isinstance(part.names, np.ndarray) else part.names
        by_dataset[name].update(zip(labels, of_part.tolist(), strict=True))
    if len(datasets) == 1:
        return Numbering(lookups, num_classes, by_dataset[names[0]])
    if merge == "by_name":
        met_again = sum(map(len, by_dataset.values())) - num_classes
        logger.info("merged by name: %d classes; %d labels met again", num_classes, met_again)
    return Numbering(lookups, num_classes, by_dataset)


@dataclass(frozen=True)
class _Part:
    """A source's labels.

    Attributes:
        used: those that an image has, ascending; int64 [k].
        names: what they stand for: int64 [k], or k texts.
    """

    used: npt.NDArray[np.int64]
    names: npt.NDArray[np.int64] | list[str]


def _part(source: Labelled) -> _Part:
    labels, names = source.labels, source.names
    present = np.zeros(int(labels.max()) + 1, np.bool_)
    for start in range(0, len(labels), _AT_ONCE):
        present[labels[start : start + _AT_ONCE]] = True
    used = np.flatnonzero(present)
    if names is None:
        return _Part(used, used)
    of_used = [names[label] for label in used.tolist()]
    texts = [name for name in of_used if isinstance(name, str)]
    return _Part(used, texts if texts else np.array(of_used, np.int64))


def _classes(
    name: str, parts: Sequence[_Part], remap: bool
) -> tuple[list[npt.NDArray[np.int32]], int]:
    """Return the classes of each part's names in one space of labels, int32 [k], and their number.

    `name` is that of the dataset or datasets, for the message.
    """
    numeric = [part.names for part in parts if isinstance(part.names, np.ndarray)]
    # NumPy's unique hashes, which takes longer than the rest of opening a large dataset.
    in_order = np.sort(np.concatenate([np.empty(0, np.int64), *numeric]))
    numbers = np.concatenate([in_order[:1], in_order[1:][in_order[1:] != in_order[:-1]]])
    if not remap:
        _check_gaps(name, numbers)
    texts = sorted({text for part in parts if isinstance(part.names, list) for text in part.names})
    class_of = {text: len(numbers) + place for place, text in enumerate(texts)}
    return [
        np.searchsorted(numbers, part.names).astype(np.int32)
        if isinstance(part.names, np.ndarray)
        else np.array([class_of[text] for text in part.names], np.int32)
        for part in parts
    ], len(numbers) + len(texts)


def _check_gaps(name: str, numbers: npt.NDArray[np.int64]) -> None:
    if not len(numbers) or numbers[-1] == len(numbers) - 1:
        return
    gap = int(np.flatnonzero(numbers != np.arange(len(numbers)))[0])
    raise NumberingError(
        f"{name}: the labels have gaps: no image has {gap}, the next label is {numbers[gap]} "
        f"(labels in use: {len(numbers)}, from {numbers[0]} to {numbers[-1]}); expected every "
        "number from 0 on: set remap_labels to number them afresh, with the mapping saved"
    )


def _lookup(part: _Part, classes: npt.NDArray[np.int32]) -> npt.NDArray[np.int32] | None:
    if np.array_equal(part.used, classes):
        return None
    lookup = np.full(part.used[-1] + 1, -1, np.int32)
    lookup[part.used] = classes
    return lookup
