"""Error against discard: how much fewer errors remain when the pairs of worst quality are left out.

Shape legend: p genuine pairs, q points of the curve.

The quality of a pair is the smaller one of its two images. Pairs leave in the order of their
quality, all of one quality together, and the threshold stays. The curve is the false non-match rate
of the pairs that remain, a step function of the fraction that has left, with a last point (1, 0).
Source: Grother and Tabassi, "Performance of Biometric Quality Measures", 2007; step curves and
partial areas: Schlett et al., "Considerations on the Evaluation of Biometric Quality Assessment
Algorithms", 2023.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from eval.protocols.rates import Floats

DISCARDS: Final = (0.0, 0.05, 0.1, 0.2, 0.3)
AREAS: Final = (0.1, 0.2, 0.3, 1.0)


@dataclass(frozen=True)
class ErrorDiscard:
    """The curve of error against discard, and figures of it by fraction of discarded pairs."""

    threshold: float
    discard: tuple[float, ...]  # fraction of pairs that have left, ascending from 0 to 1
    error: tuple[float, ...]  # false non-match rate of the others, from each point to the next
    error_at_discard: dict[float, float]
    partial_area: dict[float, float]  # under the steps, from 0 to the fraction; lower is better
    best_area: dict[float, float]  # of a quality by which exactly the errors leave first


def error_discard(
    scores_p: Floats,
    qualities_p2: Floats,  # of both images; higher is better
    threshold: float,
    *,
    discards: Sequence[float] = DISCARDS,
    areas: Sequence[float] = AREAS,
) -> ErrorDiscard:
    """Return the curve of genuine pairs at a threshold, above which a score is accepted.

    Raises `ValueError` for no pairs, for arrays that do not match, for values that are not finite
    and for fractions outside [0, 1].
    """
    scores_p, qualities_p2 = (np.asarray(x, dtype=np.float64) for x in (scores_p, qualities_p2))
    if not len(scores_p) or qualities_p2.shape != (len(scores_p), 2):
        raise ValueError(
            f"{len(scores_p)} scores and qualities of shape {qualities_p2.shape}: expected at "
            "least one genuine pair, and two qualities per pair, [p, 2]"
        )
    for name, values in (("scores", scores_p), ("qualities", qualities_p2)):
        if bad := int(np.count_nonzero(~np.isfinite(values))):
            raise ValueError(
                f"{bad} of {values.size} {name} are not finite: expected numbers; compute them "
                "again, or leave these pairs out"
            )
    fractions = [*discards, *areas]
    if not np.isfinite(threshold) or any(not 0 <= fraction <= 1 for fraction in fractions):
        raise ValueError(
            f"the threshold {threshold} and fractions {fractions}: expected a number, and "
            "fractions from 0 to 1"
        )
    quality_p = qualities_p2.min(axis=1)
    order = np.argsort(quality_p, kind="stable")
    _, first_q = np.unique(quality_p[order], return_index=True)
    errors_p = np.append(0, np.cumsum(scores_p[order] <= threshold))
    left_q = len(scores_p) - first_q
    discard_q = np.append(first_q / len(scores_p), 1.0)
    error_q = np.append((errors_p[-1] - errors_p[first_q]) / left_q, 0.0)
    first_error = float(error_q[0])
    return ErrorDiscard(
        threshold=threshold,
        discard=tuple(discard_q.tolist()),
        error=tuple(error_q.tolist()),
        error_at_discard={
            x: float(error_q[np.searchsorted(discard_q, x, side="right") - 1]) for x in discards
        },
        partial_area={x: _area(discard_q, error_q, x) for x in areas},
        best_area={x: (first_error**2 - max(first_error - x, 0.0) ** 2) / 2 for x in areas},
    )


def _area(discard_q: Floats, error_q: Floats, end: float) -> float:
    """Return the area under the steps from 0 to `end`."""
    edges_q = np.minimum(discard_q, end)
    return float(np.sum(np.diff(edges_q) * error_q[:-1]))


def norm_qualities(embeddings_nd: NDArray[np.floating[Any]], rows: NDArray[np.int64]) -> Floats:
    """Return the L2 norms of both images of each pair, float64 [p, 2], as their qualities.

    The norm before normalisation grows with the quality of the image in networks trained by MagFace
    or AdaFace, and to a degree in others. Images 2k and 2k + 1 of `rows`, int64 [2p], are pair k.
    """
    norms_n: Floats = np.linalg.norm(embeddings_nd.astype(np.float64), axis=1)
    return norms_n[rows].reshape(-1, 2)
