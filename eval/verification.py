"""What a verification set says about a network, from the embeddings of its images.

Shape legend: p pairs, n unique images, d embedding size.
"""

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from eval.protocol import (
    THRESHOLD_STEP,
    Bools,
    FoldScores,
    RocCurve,
    fold_ranges,
    pairs_needed,
    roc_curve,
    squared_distances,
    tar_at_far,
    ten_fold,
    unit,
)

RATES: Final = {"1e-2": 1e-2, "1e-3": 1e-3, "1e-4": 1e-4}


class VerificationError(ValueError):
    """Embeddings that cannot be judged; names the set, what was found and what was expected."""


@dataclass(frozen=True)
class VerificationResult:
    """The figures of one verification set.

    Distances are squared Euclidean distances of unit embeddings, cosines their equivalents
    `1 - distance / 2`. Where `flip` holds, a picture's embedding is the sum of its own and its
    mirror image's, and the figures named `no_flip` are those of its own alone; without `flip` both
    are the same.

    Attributes:
        name: the set's name.
        pairs: how many pairs it has.
        flip: whether embeddings of mirror images were added.
        accuracy: mean accuracy of the ten folds, 0 … 1.
        accuracy_std: their population standard deviation.
        accuracy_no_flip: as `accuracy`, of plain embeddings.
        accuracy_no_flip_std: as `accuracy_std`, of plain embeddings.
        threshold_distance: mean threshold of the folds; two pictures closer than this are same.
        threshold_cosine: the same threshold as a cosine; two pictures above it are same.
        threshold_cosine_no_flip: the cosine threshold for plain embeddings.
        tar_at_far: true accept rate at each false accept rate; None where the set has too few
            negative pairs to tell.
        tar_at_far_missing: the reason for each None.
        embedding_norm: mean L2 norm of the embeddings before normalisation, over all images of
            all pairs, plain and mirrored ones counted singly.
        folds: accuracies and thresholds of the single folds.
        roc: true against false accepts, for a plot.
        warnings: what makes these figures doubtful, in words.
    """

    name: str
    pairs: int
    flip: bool
    accuracy: float
    accuracy_std: float
    accuracy_no_flip: float
    accuracy_no_flip_std: float
    threshold_distance: float
    threshold_cosine: float
    threshold_cosine_no_flip: float
    tar_at_far: dict[str, float | None]
    tar_at_far_missing: dict[str, str]
    embedding_norm: float
    folds: FoldScores = field(repr=False)
    roc: RocCurve = field(repr=False, compare=False)
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return all figures but the curve as plain values; the name is under `set`."""
        return {
            "set": self.name,
            "pairs": self.pairs,
            "flip": self.flip,
            "accuracy": self.accuracy,
            "accuracy_std": self.accuracy_std,
            "accuracy_no_flip": self.accuracy_no_flip,
            "accuracy_no_flip_std": self.accuracy_no_flip_std,
            "threshold_distance": self.threshold_distance,
            "threshold_cosine": self.threshold_cosine,
            "threshold_cosine_no_flip": self.threshold_cosine_no_flip,
            "tar_at_far": dict(self.tar_at_far),
            "tar_at_far_missing": dict(self.tar_at_far_missing),
            "embedding_norm": self.embedding_norm,
            "fold_accuracy": list(self.folds.accuracy),
            "fold_threshold_distance": list(self.folds.threshold),
            "warnings": list(self.warnings),
        }

    def summary(self) -> str:
        """Return the main figures and all warnings as one line."""
        rates = ", ".join(
            f"TAR@FAR {name} {rate:.4f}"
            for name, rate in self.tar_at_far.items()
            if rate is not None
        )
        parts = [
            f"{self.name}: accuracy {self.accuracy:.4f} ± {self.accuracy_std:.4f}",
            f"no flip {self.accuracy_no_flip:.4f}",
            f"cosine threshold {self.threshold_cosine:.3f}",
            *([rates] if rates else []),
            f"norm {self.embedding_norm:.2f}",
            *(f"WARNING: {warning}" for warning in self.warnings),
        ]
        return " | ".join(parts)


def verify_embeddings(
    name: str,
    plain_nd: NDArray[np.floating[Any]],
    flipped_nd: NDArray[np.floating[Any]] | None,
    same_p: Bools,
    places: NDArray[np.int64] | None = None,
) -> VerificationResult:
    """Judge embeddings by the published protocol.

    Args:
        name: the set's name, for the result and messages.
        plain_nd: float [n, d], embeddings as the network gives them.
        flipped_nd: the same of the mirror images, or None to judge `plain_nd` alone.
        same_p: bool [p], whether the images of pair k show one person.
        places: int64 [2p], the row of image 2k and 2k+1 of each pair; in order (n = 2p) if None.

    Everything is computed in float64. Raises `VerificationError` for shapes that do not fit,
    values that are not finite, fewer than ten pairs, or pairs of one kind only.
    """
    if places is None:
        places = np.arange(len(plain_nd), dtype=np.int64)
    both = [plain_nd] if flipped_nd is None else [plain_nd, flipped_nd]
    for embeddings in both:
        _check_embeddings(name, embeddings, both[0].shape, places, same_p)
    check_pairs(name, same_p)
    doubles = [np.asarray(embeddings, dtype=np.float64) for embeddings in both]
    norms = [np.linalg.norm(embeddings, axis=1) for embeddings in doubles]
    judged = unit(sum(doubles[1:], start=doubles[0]))
    distances_p = squared_distances(judged[places[0::2]], judged[places[1::2]])
    folds = ten_fold(distances_p, same_p)
    folds_no_flip = folds
    if flipped_nd is not None:
        alone = unit(doubles[0])
        folds_no_flip = ten_fold(
            squared_distances(alone[places[0::2]], alone[places[1::2]]), same_p
        )
    negatives = int(np.count_nonzero(~same_p))
    rates = {label: tar_at_far(distances_p, same_p, rate) for label, rate in RATES.items()}
    return VerificationResult(
        name=name,
        pairs=len(same_p),
        flip=flipped_nd is not None,
        accuracy=folds.mean,
        accuracy_std=folds.std,
        accuracy_no_flip=folds_no_flip.mean,
        accuracy_no_flip_std=folds_no_flip.std,
        threshold_distance=folds.mean_threshold,
        threshold_cosine=_cosine(folds.mean_threshold),
        threshold_cosine_no_flip=_cosine(folds_no_flip.mean_threshold),
        tar_at_far=rates,
        tar_at_far_missing={
            label: f"needs {pairs_needed(RATES[label]):,} negative pairs, the set has {negatives:,}"
            for label, rate in rates.items()
            if rate is None
        },
        embedding_norm=float(np.mean([norm[places].mean() for norm in norms])),
        folds=folds,
        roc=roc_curve(distances_p, same_p),
        warnings=(*_fold_warnings(same_p), *_embedding_warnings(judged, distances_p)),
    )


def check_pairs(name: str, same_p: Bools) -> None:
    """Raise `VerificationError` unless the protocol can be applied to these pair labels."""
    positives = int(np.count_nonzero(same_p))
    negatives = len(same_p) - positives
    if len(same_p) < 10 or not positives or not negatives:
        raise VerificationError(
            f"verification set {name}: {positives} positive and {negatives} negative pairs; "
            "expected at least 10 pairs, one for each fold, and some of either kind: add pairs"
        )


def _check_embeddings(
    name: str,
    embeddings: NDArray[np.floating[Any]],
    shape: tuple[int, ...],
    places: NDArray[np.int64],
    same_p: Bools,
) -> None:
    if len(shape) != 2 or embeddings.shape != shape or len(places) != 2 * len(same_p):
        raise VerificationError(
            f"verification set {name}: embeddings of shape {shape} and {embeddings.shape}, "
            f"{len(places)} images for {len(same_p)} pairs; expected one shape [n, d], and two "
            "images a pair"
        )
    finite = np.isfinite(embeddings).all(axis=1)
    if not finite.all():
        raise VerificationError(
            f"verification set {name}: {np.count_nonzero(~finite)} of {len(finite)} embeddings "
            "have NaN or infinite values; the network has diverged, or overflows in half "
            "precision: go back to an earlier checkpoint, or verify in fp32"
        )


def _cosine(squared_distance: float) -> float:
    return 1 - squared_distance / 2


def _fold_warnings(same_p: Bools) -> list[str]:
    """Say when file order does not suit unshuffled folds."""
    shares = [float(np.mean(same_p[start:stop])) for start, stop in fold_ranges(len(same_p))]
    lopsided = sum(share in (0.0, 1.0) for share in shares)
    if lopsided == 0:
        return []
    return [
        f"{lopsided} of 10 folds hold pairs of one kind only, so the deviation and each fold's "
        "accuracy mean little: the folds are cut in file order, as LFW's are; write the set in "
        "the order of data.pairs.bin_file.balanced_order"
    ]


def _embedding_warnings(
    judged_nd: NDArray[np.float64], distances_p: NDArray[np.float64]
) -> list[str]:
    """Say when a network tells its images apart no further than the protocol's resolution."""
    zeros = int(np.count_nonzero(~judged_nd.any(axis=1)))
    found = [f"{zeros} of {len(judged_nd)} embeddings are zero"] if zeros else []
    if distances_p.max() < THRESHOLD_STEP:
        found.append(
            f"collapsed embeddings: no pair is further apart than {distances_p.max():.1e}, under "
            f"the finest threshold {THRESHOLD_STEP}, so the accuracy is the share of one kind of "
            "pairs (0.5 exactly for equally many); the network gives the same embedding for "
            "every face"
        )
    return found
