"""Faces of a verification set to be looked at: those of whom the pairs say who they are.

Shape legend: p pairs, 2p images of a set, n unique ones, f faces.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from data.datasets.sources import ImageSource

MOST: Final = 256


@dataclass(frozen=True, eq=False)
class FaceSample:
    """Some faces of a set."""

    images: Sequence[bytes]  # f, encoded
    embeddings: NDArray[np.floating[Any]]  # [f, d], of any norm
    people: Sequence[int]  # f; faces of one number are known to be of one person


def sample_faces(
    source: ImageSource,
    embeddings_nd: NDArray[np.floating[Any]],
    same_p: NDArray[np.bool_],
    rows: NDArray[np.int64],
    unique: NDArray[np.int64],
) -> FaceSample:
    """Return the faces of the first pairs of one person, `MOST` at most.

    `rows` [2p] are the rows of the embeddings for the images of the pairs, and `unique` [n] the
    image in the source of each row. People are numbered in the order of their first pairs. Two
    numbers may be one person, as a pair of two images says nothing of a third.
    """
    pair = rows.reshape(-1, 2)[same_p]
    person = _joined(len(unique), pair)
    shown = list(dict.fromkeys(pair.ravel().tolist()))[:MOST]
    numbers: dict[int, int] = {}
    people = [numbers.setdefault(person[row], len(numbers)) for row in shown]
    return FaceSample(
        [bytes(source.encoded(int(unique[row]))) for row in shown], embeddings_nd[shown], people
    )


def people_of(source: ImageSource, same_p: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return a number of the person for each image of the pairs, int64 [2p].

    Equal numbers are one person by a chain of pairs of one person, or of equal images. Two numbers
    may be one person too, as a pair of two people says nothing of others.
    """
    first: dict[bytes, int] = {}
    rows = np.array(
        [
            first.setdefault(hashlib.sha256(source.encoded(index)).digest(), index)
            for index in range(2 * len(same_p))
        ]
    )
    pair = rows.reshape(-1, 2)[same_p]
    person = np.array(_joined(len(rows), pair), np.int64)
    return person.take(rows)


def _joined(count: int, pairs_q2: NDArray[np.int64]) -> list[int]:
    """Return for each of `count` rows one that is the same for all that pairs connect."""
    person = list(range(count))  # of each row: another row of the same person, or its own

    def first(row: int) -> int:
        while person[row] != row:
            person[row] = person[person[row]]
            row = person[row]
        return row

    for one, other in pairs_q2.tolist():
        person[first(other)] = first(one)
    return [first(row) for row in range(count)]
