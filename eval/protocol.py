"""The published verification protocol, and the operating points of a verification set.

Shape legend: p pairs, n images, d embedding size, F folds, T thresholds.

Published accuracies on LFW, CFP-FP, AgeDB-30 and their like rest on this protocol (Huang et al.,
"Labeled Faces in the Wild", 2007, in the form that face recognition papers report today):
the distance of a pair is the squared Euclidean distance of L2-normalised embeddings; a pair counts
as same where the distance is below a threshold of 0, 0.01 … 3.99; the pairs are cut, in file
order, into ten folds; each fold is judged by the first threshold that is most accurate on the
other nine; mean and population standard deviation of the ten accuracies are reported.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from recognition.distributed import part_range

FOLDS: Final = 10
THRESHOLD_STEP: Final = 0.01
THRESHOLD_COUNT: Final = 400

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class FoldScores:
    """The result of the ten folds.

    Attributes:
        accuracy: the accuracy of each fold, with the threshold from the other nine.
        threshold: that threshold of each fold, a squared distance.
    """

    accuracy: tuple[float, ...]
    threshold: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean accuracy."""
        return float(np.mean(self.accuracy))

    @property
    def std(self) -> float:
        """Population standard deviation of the accuracy."""
        return float(np.std(self.accuracy))

    @property
    def mean_threshold(self) -> float:
        """Mean threshold, the one to deploy: a squared distance."""
        return float(np.mean(self.threshold))


@dataclass(frozen=True, eq=False)
class RocCurve:
    """True accepts against false accepts, at false accept rates evenly spaced by logarithm.

    Attributes:
        far: float64 [k], rising from one false accept to all.
        tar: float64 [k], the rate of true accepts at most that false accept rate allows.
    """

    far: Floats
    tar: Floats


def unit(embeddings_nd: Floats) -> Floats:
    """Return each row divided by its L2 norm, float64 [n, d]; a row of zeros stays as it is."""
    norms_n = np.linalg.norm(embeddings_nd, axis=1, keepdims=True)
    unit_nd: Floats = embeddings_nd / np.where(norms_n == 0, 1.0, norms_n)
    return unit_nd


def squared_distances(first_pd: Floats, second_pd: Floats) -> Floats:
    """Return the squared Euclidean distance of each pair of rows, float64 [p]."""
    distances_p: Floats = np.sum(np.square(first_pd - second_pd), axis=1)
    return distances_p


def ten_fold(distances_p: Floats, same_p: Bools) -> FoldScores:
    """Return accuracy and threshold of every fold.

    Raises `ValueError` for fewer than ten pairs, for arrays of different lengths, and for a
    distance that is not a number.
    """
    if len(distances_p) != len(same_p) or len(same_p) < FOLDS:
        raise ValueError(
            f"{len(distances_p)} distances and {len(same_p)} pair labels: expected equally many, "
            f"and at least {FOLDS}, one a fold"
        )
    if not np.isfinite(distances_p).all():
        bad = np.count_nonzero(~np.isfinite(distances_p))
        raise ValueError(f"{bad} of {len(distances_p)} distances are not finite")
    thresholds_T = np.arange(THRESHOLD_COUNT, dtype=np.float64) * THRESHOLD_STEP
    right_FT = np.stack(
        [
            _right_answers(distances_p[start:stop], same_p[start:stop], thresholds_T)
            for start, stop in fold_ranges(len(same_p))
        ]
    )
    sizes_F = np.array([stop - start for start, stop in fold_ranges(len(same_p))])
    # On the other nine folds; argmax takes the first of several best.
    best_F = (right_FT.sum(axis=0) - right_FT).argmax(axis=1)
    accuracy_F = right_FT[np.arange(FOLDS), best_F] / sizes_F
    return FoldScores(tuple(accuracy_F.tolist()), tuple(thresholds_T[best_F].tolist()))


def fold_ranges(pairs: int) -> list[tuple[int, int]]:
    """Return `[start, stop)` of each of the ten folds, in file order."""
    return [part_range(pairs, FOLDS, fold) for fold in range(FOLDS)]


def _right_answers(distances_p: Floats, same_p: Bools, thresholds_T: Floats) -> NDArray[np.int64]:
    """Return how many pairs `distance < threshold` judges rightly, int64 [T].

    A pair is called same from the first threshold above its distance on, so counting each pair
    there and summing up answers all thresholds at once.
    """
    first_p = np.searchsorted(thresholds_T, distances_p, side="right")
    size = len(thresholds_T) + 1
    same_T = np.bincount(first_p[same_p], minlength=size).cumsum()[:-1]
    different_T = np.bincount(first_p[~same_p], minlength=size).cumsum()[:-1]
    right_T: NDArray[np.int64] = same_T + np.count_nonzero(~same_p) - different_T
    return right_T


def tar_at_far(distances_p: Floats, same_p: Bools, far: float) -> float | None:
    """Return the rate of true accepts at the strictest threshold with a false accept rate `far`.

    The threshold is the largest at which at most `far` of all negative pairs are accepted. Returns
    None where the negative pairs do not support the rate: one false accept among them would
    already exceed it. Raises `ValueError` without a positive pair.
    """
    if not same_p.any():
        raise ValueError("no positive pairs: a rate of true accepts needs at least one")
    negatives = np.sort(distances_p[~same_p])
    # A rate such as 0.001 of 3,000 pairs is three of them, whatever its last bits are.
    accepted = int(np.floor(far * len(negatives) * (1 + 1e-9)))
    if accepted == 0:
        return None
    limit = negatives[accepted] if accepted < len(negatives) else np.inf
    return float(np.mean(distances_p[same_p] < limit))


def pairs_needed(far: float) -> int:
    """Return how many negative pairs a false accept rate needs."""
    return round(1 / far)


def roc_curve(distances_p: Floats, same_p: Bools, points: int = 41) -> RocCurve:
    """Return the curve at `points` rates; raises `ValueError` unless both kinds of pairs exist."""
    negatives = int(np.count_nonzero(~same_p))
    if negatives == 0:
        raise ValueError("no negative pairs: a rate of false accepts needs at least one")
    far = np.geomspace(1 / negatives, 1.0, points)
    tar = [tar_at_far(distances_p, same_p, rate) for rate in far.tolist()]
    assert None not in tar, "every rate allows at least one false accept"
    return RocCurve(far, np.array(tar, dtype=np.float64))
