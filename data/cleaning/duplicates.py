"""The same image twice, though encoded anew: by hash and embedding, within and across identities.

Shape legend: k images of an identity, m images near it.
"""

from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from data.cleaning.embeddings import Floats, Int64s, Vectors
from data.cleaning.findings import Duplicates
from data.cleaning.groups import Groups
from data.cleaning.hashes import distances

BITS: Final = 8  # of 64, in which the hashes of one image may differ
COSINE: Final = 0.95  # at least
ROWS: Final = 1024  # of an identity that are compared with all of it at a time

Found = tuple[int, int, float, int]  # two images, cosine, bits


def find_duplicates(
    groups: Groups, vectors: Vectors, hashes: NDArray[np.uint64], near: Int64s
) -> Duplicates:
    """Return the images that repeat one with a lower number.

    Compared are the images of an identity with each other, and with those of another identity of
    which it is the nearest: `near` is that of each image, int64 [n], -1 for none. A copy whose two
    labels are both wrong is not found.
    """
    visitors = Groups(near, groups.count)
    first: dict[int, Found] = {}  # by the later image: its pair with the earliest one
    for number, members, found in groups.embeddings(vectors):
        guests = visitors.members(number)
        hosts = len(members)
        if hosts + len(guests) < 2 or not hosts:
            continue
        every = np.concatenate([members, guests])
        unit = np.concatenate([found, vectors.take(guests)]) if len(guests) else found
        for start in range(0, hosts, ROWS):
            rows = slice(start, min(start + ROWS, hosts))
            for pair in _pairs(every, unit, hashes[every], rows):
                first[pair[1]] = min(pair, first.get(pair[1], pair))
    return _first_ones(first.values())


def _pairs(
    images: Int64s, unit: Floats, hashes: NDArray[np.uint64], rows: slice
) -> Iterator[Found]:
    cosines = unit[rows] @ unit.T
    one, other = np.nonzero(cosines >= COSINE)
    one += rows.start
    different = images[one] != images[other]
    one, other = one[different], other[different]
    bits = distances(hashes[one], hashes[other])
    for a, b, apart in zip(one.tolist(), other.tolist(), bits.tolist(), strict=True):
        if apart <= BITS:
            low, high = sorted((int(images[a]), int(images[b])))
            yield low, high, float(cosines[a - rows.start, b]), apart


def _first_ones(pairs: Iterable[Found]) -> Duplicates:
    """Return for each image that is not the first of its copies the first one."""
    first: dict[int, Found] = {}
    for pair in sorted(pairs):
        low, high, cosine, bits = pair
        origin = first[low][0] if low in first else low
        first.setdefault(high, (origin, high, cosine, bits))
    found = sorted(first.values(), key=lambda pair: pair[1])
    return Duplicates(
        np.array([pair[1] for pair in found], np.int64),
        np.array([pair[0] for pair in found], np.int64),
        np.array([pair[2] for pair in found], np.float32),
        np.array([pair[3] for pair in found], np.int64),
    )
