"""Faces of a verification set to be looked at: those of whom the pairs say who they are.

Shape legend: p pairs, 2p images of a set, n unique ones, f faces.
"""

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
    person = list(range(len(unique)))  # of each row: another row of the same person, or its own

    def first(row: int) -> int:
        while person[row] != row:
            person[row] = person[person[row]]
            row = person[row]
        return row

    for one, other in pair.tolist():
        person[first(other)] = first(one)
    shown = list(dict.fromkeys(pair.ravel().tolist()))[:MOST]
    numbers: dict[int, int] = {}
    people = [numbers.setdefault(first(row), len(numbers)) for row in shown]
    return FaceSample(
        [bytes(source.encoded(int(unique[row]))) for row in shown], embeddings_nd[shown], people
    )
