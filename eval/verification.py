"""The published accuracy of a verification set, from the embeddings of its images.

Shape legend: p pairs, n unique images, d embedding size.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.protocol import (
    FOLDS,
    THRESHOLD_STEP,
    Bools,
    Floats,
    fold_indices,
    squared_distances,
    ten_fold,
    unit,
)
from eval.results import TenFold


class VerificationError(ValueError):
    """Embeddings that cannot be verified; has the set, what was found and what was expected."""


def verify_embeddings(
    name: str,
    plain_nd: NDArray[np.floating[Any]],
    flipped_nd: NDArray[np.floating[Any]] | None,
    same_p: Bools,
    rows: NDArray[np.int64] | None = None,
) -> tuple[TenFold, tuple[str, ...]]:
    """Return the accuracy of a set by the published protocol, in float64, and reasons to doubt it.

    Distances are squared Euclidean distances of unit embeddings; cosines are `1 - distance / 2`.
    The embedding of an image is the sum of its own and its mirror image's, and the figures named
    `no_flip` are those of its own alone. Without mirror images both are the same.

    `plain_nd` are embeddings as the network returns them, `flipped_nd` those of the mirror images,
    or None to use the plain ones alone. `same_p` says whether the images of pair k show one person;
    they are 2k and 2k+1 of `rows`, int64 [2p], which are rows of the embeddings: by default all.
    Raises `VerificationError` for shapes that do not match, values that are not finite, fewer than
    ten pairs, or pairs of one kind only.
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
    return TenFold(
        flip=flipped_nd is not None,
        accuracy=folds.mean,
        population_std=folds.std,
        standard_error=float(np.std(folds.accuracy, ddof=1) / np.sqrt(FOLDS)),
        accuracy_no_flip=folds_no_flip.mean,
        population_std_no_flip=folds_no_flip.std,
        fold_accuracy=folds.accuracy,
        fold_threshold_distance=folds.threshold,
        threshold_distance=folds.mean_threshold,
        threshold_cosine=1 - folds.mean_threshold / 2,
        threshold_cosine_no_flip=1 - folds_no_flip.mean_threshold / 2,
        embedding_norm=float(np.mean([norm[rows].mean() for norm in norms])),
    ), tuple(_warnings(same_p, unit_nd, distances_p))


def check_pairs(name: str, same_p: Bools) -> None:
    """Raise `VerificationError` unless the protocol can be applied to these pair labels."""
    positives = np.count_nonzero(same_p)
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


def _warnings(same_p: Bools, unit_nd: Floats, distances_p: Floats) -> Iterator[str]:
    """Warn of a file order that does not suit unshuffled folds, and of useless embeddings."""
    folds = [same_p[fold] for fold in fold_indices(len(same_p))]
    if one_kind := sum(fold.all() or not fold.any() for fold in folds):
        yield (
            f"{one_kind} of {FOLDS} folds hold pairs of one kind only, so the deviation and each "
            "fold's accuracy mean little: folds follow the order of the file, as in LFW; unpack "
            "the set with scripts/make_pairs.py --unpack, delete the column fold of its pairs.csv, "
            "and make it again from that"
        )
    if zeros := np.count_nonzero(~unit_nd.any(axis=1)):
        yield f"{zeros} of {len(unit_nd)} embeddings are zero"
    if distances_p.max() < THRESHOLD_STEP:
        yield (
            f"collapsed embeddings: the largest distance of a pair is {distances_p.max():.1e}, "
            f"below the finest threshold {THRESHOLD_STEP}, so the accuracy is the fraction of one "
            "kind of pairs (exactly 0.5 for equally many); the network returns the same embedding "
            "for every face"
        )
