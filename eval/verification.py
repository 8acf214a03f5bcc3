"""The figures of one verification set, from the embeddings of its images.

Shape legend: p pairs, n unique images, d embedding size.
"""

from dataclasses import dataclass, field, fields
from math import isnan
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from eval.protocol import (
    FOLDS,
    THRESHOLD_STEP,
    Bools,
    Floats,
    FoldScores,
    RocCurve,
    fold_indices,
    roc_curve,
    squared_distances,
    tar_at_far,
    ten_fold,
    unit,
)

RATES: Final = {"1e-2": 1e-2, "1e-3": 1e-3, "1e-4": 1e-4}


class VerificationError(ValueError):
    """Embeddings that cannot be verified; has the set, what was found and what was expected."""


@dataclass(frozen=True)
class VerificationResult:
    """The figures of one verification set.

    Distances are squared Euclidean distances of unit embeddings; cosines are `1 - distance / 2`.
    With `flip`, the embedding of an image is the sum of its own and its mirror image's, and the
    figures named `no_flip` are those of its own alone. Without `flip` both are the same.

    Attributes:
        name: the set's name.
        pairs: how many pairs it has.
        flip: whether embeddings of mirror images were added.
        accuracy: mean accuracy of the ten folds, 0 … 1.
        accuracy_std: their population standard deviation.
        accuracy_no_flip: as `accuracy`, of plain embeddings.
        accuracy_no_flip_std: as `accuracy_std`, of plain embeddings.
        threshold_distance: mean threshold of the folds; images closer than this are same.
        threshold_cosine: the same threshold as a cosine; images above it are same.
        threshold_cosine_no_flip: the cosine threshold for plain embeddings.
        tar_at_far: true accept rate at each false accept rate; None where the set has too few
            negative pairs.
        tar_at_far_missing: the reason for each None.
        embedding_norm: mean L2 norm of the embeddings before normalisation, over all images of
            all pairs; plain and mirrored embeddings count separately.
        folds: accuracies and thresholds of the folds.
        roc: true against false accept rates, for a plot.
        warnings: reasons to doubt these figures.
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
        apart = ("name", "folds", "roc", "warnings")
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in apart}
        return {
            "set": self.name,
            **plain,
            "tar_at_far": dict(self.tar_at_far),
            "tar_at_far_missing": dict(self.tar_at_far_missing),
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
    rows: NDArray[np.int64] | None = None,
) -> VerificationResult:
    """Return the figures of a set by the published protocol.

    Args:
        name: the set's name, for the result and messages.
        plain_nd: float [n, d], embeddings as the network returns them.
        flipped_nd: the same of the mirror images; None to use `plain_nd` alone.
        same_p: bool [p], whether the images of pair k show one person.
        rows: int64 [2p], the rows of images 2k and 2k+1 of each pair; 0 … n-1 if None.

    Everything is computed in float64. Raises `VerificationError` for shapes that do not match,
    values that are not finite, fewer than ten pairs, or pairs of one kind only.
    """
    if rows is None:
        rows = np.arange(len(plain_nd), dtype=np.int64)
    views = [plain_nd] if flipped_nd is None else [plain_nd, flipped_nd]
    for embeddings in views:
        _check_embeddings(name, embeddings, plain_nd.shape, rows, same_p)
    check_pairs(name, same_p)
    doubles = [np.asarray(embeddings, dtype=np.float64) for embeddings in views]
    norms = [np.linalg.norm(embeddings, axis=1) for embeddings in doubles]
    unit_nd = unit(sum(doubles[1:], start=doubles[0]))
    distances_p = _pair_distances(unit_nd, rows)
    folds = folds_no_flip = ten_fold(distances_p, same_p)
    if flipped_nd is not None:
        folds_no_flip = ten_fold(_pair_distances(unit(doubles[0]), rows), same_p)
    tar_at_far, missing = _rates(distances_p, same_p)
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
        tar_at_far=tar_at_far,
        tar_at_far_missing=missing,
        embedding_norm=float(np.mean([norm[rows].mean() for norm in norms])),
        folds=folds,
        roc=roc_curve(distances_p, same_p),
        warnings=(*_fold_warnings(same_p), *_embedding_warnings(unit_nd, distances_p)),
    )


def check_pairs(name: str, same_p: Bools) -> None:
    """Raise `VerificationError` unless the protocol can be applied to these pair labels."""
    positives = int(np.count_nonzero(same_p))
    negatives = len(same_p) - positives
    if len(same_p) < FOLDS or not positives or not negatives:
        raise VerificationError(
            f"verification set {name}: {positives} positive and {negatives} negative pairs; "
            f"expected at least {FOLDS} pairs, one per fold, and some of each kind: add pairs"
        )


def _check_embeddings(
    name: str,
    embeddings: NDArray[np.floating[Any]],
    shape: tuple[int, ...],
    rows: NDArray[np.int64],
    same_p: Bools,
) -> None:
    if len(shape) != 2 or embeddings.shape != shape or len(rows) != 2 * len(same_p):
        raise VerificationError(
            f"verification set {name}: embeddings of shapes {shape} and {embeddings.shape}, "
            f"{len(rows)} images for {len(same_p)} pairs; expected one shape [n, d], and two "
            "images per pair"
        )
    finite = np.isfinite(embeddings).all(axis=1)
    if not finite.all():
        raise VerificationError(
            f"verification set {name}: {np.count_nonzero(~finite)} of {len(finite)} embeddings "
            "have NaN or infinite values; the network has diverged, or overflows in half "
            "precision: go back to an earlier checkpoint, or verify in fp32"
        )


def _pair_distances(unit_nd: Floats, rows: NDArray[np.int64]) -> Floats:
    return squared_distances(unit_nd[rows[0::2]], unit_nd[rows[1::2]])


def _rates(distances_p: Floats, same_p: Bools) -> tuple[dict[str, float | None], dict[str, str]]:
    """Return the true accept rate at each of `RATES`, and the reason where there is none."""
    negatives = np.count_nonzero(~same_p)
    tars = tar_at_far(distances_p, same_p, np.array(list(RATES.values()))).tolist()
    rates = {label: None if isnan(tar) else tar for label, tar in zip(RATES, tars, strict=True)}
    missing = {
        label: f"needs {round(1 / far):,} negative pairs, the set has {negatives:,}"
        for label, far in RATES.items()
        if rates[label] is None
    }
    return rates, missing


def _cosine(squared_distance: float) -> float:
    return 1 - squared_distance / 2


def _fold_warnings(same_p: Bools) -> list[str]:
    """Warn of a file order that does not suit unshuffled folds."""
    folds = [same_p[fold] for fold in fold_indices(len(same_p))]
    one_kind = sum(fold.all() or not fold.any() for fold in folds)
    if one_kind == 0:
        return []
    return [
        f"{one_kind} of {FOLDS} folds hold pairs of one kind only, so the deviation and each "
        "fold's accuracy mean little: folds follow the order of the file, as in LFW; write the "
        "set in the order of data.pairs.bin_file.balanced_order"
    ]


def _embedding_warnings(unit_nd: Floats, distances_p: Floats) -> list[str]:
    """Warn of embeddings that are zero, or that differ by less than the protocol resolves."""
    zeros = int(np.count_nonzero(~unit_nd.any(axis=1)))
    found = [f"{zeros} of {len(unit_nd)} embeddings are zero"] if zeros else []
    if distances_p.max() < THRESHOLD_STEP:
        found.append(
            f"collapsed embeddings: the largest distance of a pair is {distances_p.max():.1e}, "
            f"below the finest threshold {THRESHOLD_STEP}, so the accuracy is the fraction of one "
            "kind of pairs (exactly 0.5 for equally many); the network returns the same embedding "
            "for every face"
        )
    return found
