"""From what was found to what becomes of each image.

Shape legend: n images, C labels.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from data.cleaning.embeddings import Int64s
from data.cleaning.findings import KINDS, Findings

UNREADABLE: Final = "unreadable"
# What a network decides with few errors. Whether two labels are one person, or one label two, is
# for a person to see: a wrong answer costs a whole identity.
DEFAULT_FIXES: Final = ("swapped", "outlier", "duplicates", "leaked")


@dataclass(frozen=True)
class Plan:
    """The new label of each image, and why it is another one or none."""

    labels: Int64s  # [n], from 0 on without gaps; -1 for images that are left out
    reasons: list[str]  # [n], a kind of finding, or `UNREADABLE`; empty where nothing changes
    num_labels: int
    named_after: Int64s  # [num_labels], the old label of which each has the name
    is_half: NDArray[np.bool_]  # [num_labels], whether it is but the second half of that one


def decide(labels: Int64s, num_labels: int, found: Findings, fixes: Collection[str]) -> Plan:
    """Return what becomes of the images, whose `labels` are int64 [n], -1 for unreadable ones.

    `fixes` are those of `KINDS` that are acted on. Raises `ValueError` for any other name, and if
    no image is left.
    """
    if unknown := [name for name in fixes if name not in KINDS]:
        raise ValueError(f"fix {unknown[0]!r}: expected some of {', '.join(KINDS)}")
    new, dropped = labels.copy(), np.zeros(len(labels), np.bool_)
    reasons = [UNREADABLE if label < 0 else "" for label in labels.tolist()]

    def change(images: Int64s, reason: str) -> None:
        for image in images.tolist():
            reasons[image] = reason

    divided = "merged" in fixes
    if divided:
        for number, images in enumerate(found.merged.second):
            new[images] = num_labels + number
            change(images, "merged")
    wrong = found.wrong
    if "swapped" in fixes:
        new[wrong.images[wrong.known]] = (wrong.places if divided else wrong.labels)[wrong.known]
        change(wrong.images[wrong.known], "swapped")
    if "outlier" in fixes:
        dropped[wrong.images[~wrong.known]] = True
        change(wrong.images[~wrong.known], "outlier")
    joined = np.arange(num_labels + len(found.merged.second))
    if "same" in fixes:
        pairs = found.same.places
        if not divided:  # half of a label is not to be joined with all of another
            pairs = found.same.labels
            pairs = pairs[~np.isin(pairs, found.merged.labels).any(axis=1)]
        for one, other in pairs.tolist():
            joined[joined == joined[other]] = joined[one]
        moved = np.flatnonzero((new >= 0) & (joined[new] != new) & ~dropped)
        change(moved[[not reasons[image] for image in moved.tolist()]], "same")
        new = np.where(new < 0, -1, joined[new])
    if "duplicates" in fixes:
        copies = _copies(found, dropped)
        dropped[copies] = True
        change(copies, "duplicates")
    if "leaked" in fixes:
        named = [leak.places if divided else leak.labels for leak in found.leaks]
        leaked = joined[np.concatenate([np.empty(0, np.int64), *named])]
        images = np.flatnonzero(np.isin(new, leaked) & ~dropped)
        dropped[images] = True
        change(images, "leaked")
    new[dropped] = -1
    left, numbers = np.unique(new[new >= 0], return_inverse=True)
    if not len(left):
        raise ValueError("no image is left after all fixes: expected some; leave out some of --fix")
    new[new >= 0] = numbers
    named_after, is_half = _origins(left, joined, num_labels, found.merged.labels)
    return Plan(new, reasons, len(left), named_after, is_half)


def _origins(
    left: Int64s, joined: Int64s, num_labels: int, divided: Int64s
) -> tuple[Int64s, NDArray[np.bool_]]:
    """Return of each label that is left the old one that it is named after, and if it is a half.

    `joined` has what each label and each second half has become, and `divided` the labels of these.
    """
    named_after = np.concatenate([np.arange(num_labels), divided])[left]
    is_half = left >= num_labels
    for row in np.flatnonzero(is_half).tolist():
        whole = np.flatnonzero(joined[:num_labels] == left[row])
        if len(whole):  # a half that a label was joined to is the person of that label
            named_after[row], is_half[row] = whole[0], False
    return named_after, is_half


def _copies(found: Findings, dropped: NDArray[np.bool_]) -> Int64s:
    """Return the images to leave out of each group of copies: all but one.

    That is the first of those whose label is not in doubt; of none if all others are left out.
    """
    doubted = set(found.wrong.images.tolist())
    groups: dict[int, list[int]] = {}
    pairs = zip(found.duplicates.first.tolist(), found.duplicates.images.tolist(), strict=True)
    for first, image in pairs:
        groups.setdefault(first, [first]).append(image)
    copies: list[int] = []
    for images in groups.values():
        left = [image for image in images if not dropped[image]]
        left.sort(key=lambda image: (image in doubted, image))
        copies += left[1:]
    return np.array(sorted(copies), np.int64)
