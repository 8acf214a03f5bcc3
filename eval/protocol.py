"""The published verification protocol.

Shape legend: p pairs, n images, d embedding size, F folds, T thresholds.

Published accuracies on LFW, CFP-FP, AgeDB-30 and similar sets follow this protocol (Huang et al.,
"Labeled Faces in the Wild", 2007, in the form that face recognition papers report today):
the distance of a pair is the squared Euclidean distance of its L2-normalised embeddings; a pair
counts as same if the distance is below a threshold of 0, 0.01 … 3.99; the pairs are divided, in
file order, into ten folds; each fold is scored with the first threshold that is most accurate on
the other nine; the mean and the population standard deviation of the ten accuracies are reported.

scikit-learn is imported in the functions that need it: it takes a second and 80 MB, which a run
without verification should not pay.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

FOLDS: Final = 10
THRESHOLD_STEP: Final = 0.01
THRESHOLD_COUNT: Final = 400

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class FoldScores:
    """The result of the ten folds."""

    accuracy: tuple[float, ...]  # of each fold, at the threshold from the other nine
    threshold: tuple[float, ...]  # that threshold, a squared distance

    @property
    def mean(self) -> float:
        """Mean accuracy."""
        return float(np.mean(self.accuracy))

    @property
    def std(self) -> float:
        """Population standard deviation of the accuracies."""
        return float(np.std(self.accuracy))

    @property
    def mean_threshold(self) -> float:
        """Mean threshold, the one to deploy: a squared distance."""
        return float(np.mean(self.threshold))


def unit(embeddings_nd: Floats) -> Floats:
    """Return each row divided by its L2 norm, float64 [n, d]; rows of zeros stay zero."""
    norms_n = np.linalg.norm(embeddings_nd, axis=1, keepdims=True)
    unit_nd: Floats = embeddings_nd / np.where(norms_n == 0, 1.0, norms_n)
    return unit_nd


def squared_distances(first_pd: Floats, second_pd: Floats) -> Floats:
    """Return the squared Euclidean distance of each pair of rows, float64 [p]."""
    distances_p: Floats = np.sum(np.square(first_pd - second_pd), axis=1)
    return distances_p


def ten_fold(distances_p: Floats, same_p: Bools) -> FoldScores:
    """Return the accuracy and the threshold of every fold.

    Raises `ValueError` for fewer than ten pairs, for arrays of different lengths, and for
    distances that are not finite.
    """
    if len(distances_p) != len(same_p) or len(same_p) < FOLDS:
        raise ValueError(
            f"{len(distances_p)} distances and {len(same_p)} pair labels: expected equally many, "
            f"and at least {FOLDS}, one per fold"
        )
    if not np.isfinite(distances_p).all():
        bad = np.count_nonzero(~np.isfinite(distances_p))
        raise ValueError(f"{bad} of {len(distances_p)} distances are not finite: expected numbers")
    thresholds_T = np.arange(THRESHOLD_COUNT, dtype=np.float64) * THRESHOLD_STEP
    folds = fold_indices(len(same_p))
    correct_FT = np.stack(
        [_count_correct(distances_p[fold], same_p[fold], thresholds_T) for fold in folds]
    )
    # On the other nine folds; argmax takes the first of several best.
    best_F = (correct_FT.sum(axis=0) - correct_FT).argmax(axis=1)
    accuracy_F = correct_FT[np.arange(FOLDS), best_F] / np.array([len(fold) for fold in folds])
    return FoldScores(tuple(accuracy_F.tolist()), tuple(thresholds_T[best_F].tolist()))


def fold_indices(pairs: int) -> list[NDArray[np.int64]]:
    """Return the indices of the pairs in each of the ten folds, in file order."""
    from sklearn.model_selection import KFold

    return [test for _, test in KFold(FOLDS).split(np.empty(pairs))]


def _count_correct(distances_p: Floats, same_p: Bools, thresholds_T: Floats) -> NDArray[np.int64]:
    """Return how many pairs `distance < threshold` classifies correctly, int64 [T].

    A pair counts as same from the first threshold above its distance on, so a histogram of these
    thresholds and its cumulative sum answer for all thresholds at once.
    """
    first_p = np.searchsorted(thresholds_T, distances_p, side="right")
    size = len(thresholds_T) + 1
    same_T = np.bincount(first_p[same_p], minlength=size).cumsum()[:-1]
    different_T = np.bincount(first_p[~same_p], minlength=size).cumsum()[:-1]
    correct_T: NDArray[np.int64] = same_T + np.count_nonzero(~same_p) - different_T
    return correct_T
