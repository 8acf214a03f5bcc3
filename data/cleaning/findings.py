"""What was found in a dataset, as plain arrays; images and labels are numbers of the dataset.

Shape legend: i findings of a kind.
"""

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from data.cleaning.calibrate import Cut
from data.cleaning.embeddings import Floats, Int64s

KINDS: Final = ("swapped", "outlier", "same", "merged", "duplicates", "leaked")


@dataclass(frozen=True)
class WrongLabels:
    """Images that are far from their own identity: i of them, the worst first."""

    images: Int64s
    own: Floats  # cosine with the centre of the identity's other images
    other: Floats  # highest cosine with the centre of another identity
    labels: Int64s  # a label of that identity
    known: NDArray[np.bool_]  # near enough to that identity to be of it: swapped; else an outlier
    places: Int64s  # as labels, but C + m for the second half of division m of `TwoPeople`


@dataclass(frozen=True)
class SamePerson:
    """Pairs of labels that are one person, the surest first."""

    labels: Int64s  # [i, 2], the first with at least as many images
    cosines: Floats  # of the two centres
    scores: Floats  # the cosine beyond that of other identities near by
    places: Int64s  # [i, 2], as those of `WrongLabels`


@dataclass(frozen=True)
class TwoPeople:
    """Labels that are two people, the surest first."""

    labels: Int64s
    between: Floats  # cosine of the centres of the halves
    within: Floats  # mean cosine with the centre of the others, of the looser half
    second: list[Int64s]  # the images of the smaller half


@dataclass(frozen=True)
class Duplicates:
    """Images of which an earlier one is the same image, perhaps encoded anew."""

    images: Int64s
    first: Int64s  # the one that is kept
    cosines: Floats
    bits: Int64s  # in which the hashes differ


@dataclass(frozen=True)
class Leaks:
    """Labels that are a person of a verification set, the surest first."""

    name: str  # of the set
    labels: Int64s
    images: Int64s  # an image of that person in the set
    cosines: Floats
    scores: Floats
    places: Int64s  # as those of `WrongLabels`


@dataclass(frozen=True)
class Findings:
    """All of it, with how the thresholds were chosen."""

    wrong: WrongLabels
    same: SamePerson
    merged: TwoPeople
    duplicates: Duplicates
    leaks: list[Leaks]
    cuts: dict[str, Cut | None]  # by kind; None where there is nothing to go by
    figures: dict[str, Any] = field(default_factory=dict)  # quantiles of cosines and the like
