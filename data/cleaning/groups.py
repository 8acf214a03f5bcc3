"""Images by the identity that they are in, the identities' centres, and how images of one differ.

Shape legend: n images, C identities, d embedding size, k images of one identity.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from data.cleaning.embeddings import Floats, Int64s, Vectors, Whitened
from data.cleaning.identity import TINY, centre_of, own_cosines, robust_cosines

BATCH = 16_384  # images whose embeddings are in memory at a time, unless one identity has more
LEAST_IMAGES: Final = 3  # of an identity whose images say how those of one person differ
# Of the measured covariance; the rest is the same in all directions. Measured on planted faults:
# with more, labels that are two people are found less often, for their halves are nearer.
WEIGHT: Final = 0.2
ROWS: Final = 4096  # differences that are multiplied at a time


class Groups:
    """The images of each identity; `identity` is int64 [n], -1 for images that are in none."""

    def __init__(self, identity: Int64s, count: int) -> None:
        self.identity, self.count = identity, count
        self._order = np.argsort(identity, kind="stable")
        self._bounds = np.searchsorted(identity[self._order], np.arange(count + 1))

    @property
    def sizes(self) -> Int64s:
        """Number of images of each identity, int64 [C]."""
        return np.diff(self._bounds)

    def members(self, number: int) -> Int64s:
        """Return the images of an identity, in ascending order, int64 [k]."""
        return self._order[self._bounds[number] : self._bounds[number + 1]]

    def embeddings(
        self, vectors: Vectors, numbers: Int64s | None = None
    ) -> Iterator[tuple[int, Int64s, Floats]]:
        """Yield identities, all or `numbers` ascending, with their images and the embeddings.

        Images are read in the order of the files within a batch of some thousand. Where the files
        are sorted by identity, as records are, they are read once from end to end.
        """
        every = np.arange(self.count) if numbers is None else numbers
        before = np.concatenate([[0], np.cumsum(self.sizes[every])])
        start = 0
        while start < len(every):
            fits = int(np.searchsorted(before, before[start] + BATCH, side="right")) - 1
            stop = max(fits, start + 1)
            members = [self.members(number) for number in every[start:stop].tolist()]
            rows = np.concatenate(members)
            order = np.argsort(rows, kind="stable")
            found = np.empty((0, 0), np.float32)
            if len(rows):
                read = vectors.take(rows[order])
                found = np.empty_like(read)
                found[order] = read
            at = 0
            for number, of_one in zip(every[start:stop].tolist(), members, strict=True):
                yield number, of_one, found[at : at + len(of_one)]
                at += len(of_one)
            start = stop


def centres_of(
    groups: Groups, vectors: Vectors, size: int, least: float | None
) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Return the centres [C, d], each image's cosine with its own [n], and which are kept [n].

    The cosine is with the centre of the others; NaN for an image that is alone or in no identity.
    Images with a cosine below `least` take no part in the centre, as `robust_cosines` says; None
    keeps all. The centre of an identity without images is zero.
    """
    centres = np.zeros((groups.count, size), np.float32)
    cosines = np.full(len(vectors), np.nan, np.float32)
    kept = np.zeros(len(vectors), np.bool_)
    for number, members, found in groups.embeddings(vectors):
        if not len(members):
            continue
        if least is None:
            good = np.ones(len(members), np.bool_)
            cosines[members] = own_cosines(found, good)
        else:
            cosines[members], good = robust_cosines(found, least)
        kept[members] = good
        centres[number] = centre_of(found, good)
    return centres, cosines, kept


def whiten(groups: Groups, vectors: Vectors, size: int, least: float) -> Whitened:
    """Return the embeddings, of `size` numbers, so that those of one person differ alike.

    Pose, light and age move embeddings along some directions more than along others. The labels,
    most of which are right, say which: times the inverse square root of the covariance within
    identities, these directions count less (within-class covariance normalisation: Hatch, Kajarekar
    and Stolcke, Interspeech 2006). It helps most with people unlike those trained on.

    Images with a cosine below `least` take no part, as in `robust_cosines`. Of few images the
    covariance has less weight, and without identities of three images all cosines stay as they are.
    """
    total, count = np.zeros((size, size)), 0
    waiting: list[Floats] = []
    for number, members, found in groups.embeddings(vectors):
        if len(members) >= LEAST_IMAGES:
            unit = found[robust_cosines(found, least)[1]]
            waiting.append(unit - unit.mean(axis=0))
            count += len(unit) - 1
        if waiting and (number == groups.count - 1 or sum(map(len, waiting)) >= ROWS):
            rows = np.concatenate(waiting)
            total += rows.T @ rows
            waiting.clear()
    scale = max(float(np.trace(total)) / size, TINY)
    weight = WEIGHT * count / (count + size)
    values, axes = np.linalg.eigh(weight * total / scale + (1 - weight) * np.eye(size))
    return Whitened(vectors, ((axes / np.sqrt(values)) @ axes.T).astype(np.float32))
