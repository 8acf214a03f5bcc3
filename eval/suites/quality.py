"""Error against discard of a set, at the finest threshold that it supports.

Shape legend: g genuine pairs, n images, u different ones, d embedding size.
"""

import dataclasses
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from eval.protocols.quality import ErrorDiscard, error_discard
from eval.protocols.rates import Floats, ScoredPairs
from eval.results import FaceQuality, Quality
from eval.suites.images import ImageSet

FARS: Final = (1e-3, 1e-2, 1e-1)  # the first that the set supports
POINTS: Final = 500
BINS: Final = 50
WORST: Final = 10


def quality_of(
    pairs: ScoredPairs,
    genuine_g: Floats,  # scores in the order of `numbers_g2`
    images: ImageSet,
    numbers_g2: NDArray[np.int64],  # the images of each genuine pair
    plain_ud: NDArray[np.floating[Any]],
    given_n: Floats | None,
) -> Quality | None:
    """Return the curve by the given quality, or by the norm of the embedding of the plain image.

    None where the set supports no rate.
    """
    points = (pairs.tar_at_far(far) for far in FARS)
    point = next((one for one in points if one.threshold is not None), None)
    if point is None or point.threshold is None:
        return None
    if given_n is None:
        norms_u: Floats = np.linalg.norm(plain_ud.astype(np.float64), axis=1)
        quality_n, source = norms_u[images.rows], "norm of the embedding before normalisation"
    else:
        quality_n, source = given_n, "the list of people"
    curve = error_discard(genuine_g, quality_n[numbers_g2], point.threshold)
    quality_u = quality_n[images.unique]
    counts, edges = np.histogram(quality_u, BINS)
    worst = np.argsort(quality_u, kind="stable")[:WORST]
    return Quality(
        source=source,
        far=point.far,
        curve=thinned(curve),
        histogram_edges=tuple(edges.tolist()),
        histogram=tuple(counts.tolist()),
        worst=tuple(
            FaceQuality(images.source.describe(number), number, float(quality_n[number]))
            for number in images.unique[worst].tolist()
        ),
    )


def thinned(curve: ErrorDiscard, most: int = POINTS) -> ErrorDiscard:
    """Return the curve with at most so many of its points, the first and the last among them.

    Areas and figures at fractions remain those of all points.
    """
    last = len(curve.discard) - 1
    kept = np.unique(np.rint(np.linspace(0, last, most)).astype(np.int64)).tolist()
    return dataclasses.replace(
        curve,
        discard=tuple(curve.discard[point] for point in kept),
        error=tuple(curve.error[point] for point in kept),
    )
