"""IJB 1:1: faces become templates, templates are compared, in each of the eight published modes.

Shape legend: n faces, d embedding size, t templates, p pairs.

Source: Whitelam et al., "IARPA Janus Benchmark-B", 2017, and Maze et al., "IARPA Janus Benchmark -
C", 2018, in the form of insightface's `eval_ijbc.py`. The score of two templates is the dot product
of their vectors, which are unit vectors.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from data.loading.tuning import usable_cores
from eval.protocols.ijb_files import Faces, Ids, TemplatePairs, shorten
from eval.protocols.rates import FARS, Floats, Rates, ScoredPairs, warn

FACE_CHUNK: Final = 1 << 14
PAIR_CHUNK: Final = 1 << 20
# A sum that cancels leaves so much of the numbers summed; it has no direction.
CANCELLED: Final = 1e-12
# The last bits of a product depend on where in a matrix it stands; equal templates must tie.
SCORE_DECIMALS: Final = 12

Embeddings = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Mode:
    """How a face's embeddings become its feature; the name in tables is such as N1D1F1."""

    keep_norm: bool = True  # N1: the feature keeps its length; N0: it is divided by it
    use_detector: bool = True  # D1: the feature counts by the detector's score
    use_flip: bool = True  # F1: the embedding of the mirrored image is added

    def __str__(self) -> str:
        return f"N{self.keep_norm:d}D{self.use_detector:d}F{self.use_flip:d}"

    @classmethod
    def parse(cls, name: str) -> "Mode":
        """Return the mode of a name such as N1D1F1; raise `ValueError` for another."""
        by_name = {str(mode): mode for mode in MODES}
        if name not in by_name:
            raise ValueError(f"mode {name}: expected one of {', '.join(by_name)}")
        return by_name[name]


MODES: Final = tuple(Mode(*flags) for flags in product((False, True), repeat=3))


@dataclass(frozen=True)
class Templates:
    """The vector of each template, by ascending id."""

    id_t: NDArray[np.int64]
    vector_td: Floats  # unit vectors, or zero
    zero: tuple[int, ...]  # the ids of those that are zero
    media: int  # of all templates; a medium of two templates counts twice

    def require(self, ids: Ids, what: str) -> None:
        """Raise `ValueError` unless all these templates have a face."""
        missing = np.setdiff1d(ids, self.id_t)
        if len(missing):
            raise ValueError(
                f"{len(missing)} templates of {what} have no face: {shorten(missing)}; expected "
                "each in the face list"
            )

    def positions(self, ids: Ids) -> NDArray[np.int32]:
        """Return where templates stand, int32, of ids that have a face.

        A binary search, so that memory goes by the number of templates and not by their ids.
        """
        return np.searchsorted(self.id_t, ids).astype(np.int32)


@dataclass(frozen=True)
class Verification:
    """The figures of IJB 1:1 in one mode, and what the reader of them must know."""

    mode: str
    templates: int
    media_in_templates: int
    zero_templates: tuple[int, ...]
    repeated_pairs: int
    pairs_with_itself: int
    rates: Rates


def pool_templates(
    faces: Faces,
    plain_nd: Embeddings,
    flipped_nd: Embeddings | None,
    detector_n: Floats,
    mode: Mode,
) -> Templates:
    """Return the templates of all faces.

    A template is the sum over its media of the mean feature of the medium's faces, divided by its
    length; where it is zero it stays zero, with a warning. The same medium number in two templates
    is two media. Embeddings [n, d] may be mapped files: they are read in chunks, in float64.

    Raises `ValueError` for arrays of other lengths, and by name for faces whose embedding or
    detector score is not finite, or whose detector score is negative.
    """
    _check_rows(faces, plain_nd, flipped_nd, detector_n, mode)
    id_t, template_n = np.unique(faces.template_n, return_inverse=True)
    _, number_n = np.unique(faces.medium_n, return_inverse=True)
    _, medium_n, faces_of_m = np.unique(
        template_n * len(faces.images) + number_n, return_inverse=True, return_counts=True
    )
    # The sum of the means of media is a sum over all faces, each by one over its medium's faces.
    weight_n = 1.0 / faces_of_m[medium_n]
    sum_td = np.zeros((len(id_t), plain_nd.shape[1]))
    length_t = np.zeros(len(id_t))
    bad: list[str] = []
    for start in range(0, len(faces.images), FACE_CHUNK):
        part = slice(start, start + FACE_CHUNK)
        feature_nd = _features(plain_nd[part], flipped_nd, part, detector_n[part], mode)
        finite_n = np.isfinite(feature_nd).all(axis=1)
        bad += [faces.images[start + row] for row in np.flatnonzero(~finite_n)]
        feature_nd *= weight_n[part, None]
        _add_rows(sum_td, template_n[part], feature_nd)
        length_t += np.bincount(
            template_n[part], np.linalg.norm(feature_nd, axis=1), minlength=len(id_t)
        )
    if bad:
        raise ValueError(
            f"{len(bad)} of {len(faces.images)} faces have an embedding or detector score that is "
            f"not finite: {shorten(bad)}; expected numbers"
        )
    norm_t = np.linalg.norm(sum_td, axis=1)
    zero_t = norm_t <= CANCELLED * length_t
    sum_td[zero_t] = 0.0
    sum_td /= np.where(zero_t, 1.0, norm_t)[:, None]
    zero = tuple(id_t[zero_t].tolist())
    if zero:
        warn(
            f"{len(zero)} of {len(id_t)} templates pool to zero: {shorten(zero)}; their scores are "
            "0; check detector scores and embeddings"
        )
    return Templates(id_t, sum_td, zero, len(faces_of_m))


def check_pairs(
    templates: Templates, pairs: TemplatePairs
) -> tuple[NDArray[np.int32], NDArray[np.int32], int, int]:
    """Return the positions of both templates of each pair, repeated rows, pairs with itself.

    A row repeats if an earlier one has the same templates in either order; every row counts, as
    published figures have it, and a warning says how many repeat. Raises `ValueError` for no pairs,
    for templates without a face, and for pairs that are labelled both the same and different.
    """
    if not len(pairs.same_p):
        raise ValueError("no pairs: expected at least one genuine and one impostor pair")
    templates.require(pairs.id_u, "the pairs")
    position_u = templates.positions(pairs.id_u)
    first_p, second_p = position_u[pairs.first_p], position_u[pairs.second_p]
    # One number for each pair in either order, and its label in the last bit.
    key_p = np.minimum(first_p, second_p).astype(np.int64)
    key_p *= len(templates.id_t)
    key_p += np.maximum(first_p, second_p)
    key_p *= 2
    key_p += pairs.same_p
    key_p.sort()
    same_pair_p = (key_p[1:] ^ key_p[:-1]) <= 1
    repeated = int(np.count_nonzero(same_pair_p))
    both = np.flatnonzero(same_pair_p & (key_p[1:] != key_p[:-1]))
    if len(both):
        ids = [divmod(int(key_p[i]) >> 1, len(templates.id_t)) for i in both]
        named = shorten(f"{templates.id_t[a]} and {templates.id_t[b]}" for a, b in ids)
        raise ValueError(
            f"{len(both)} pairs have both labels: {named}; expected one label for each pair"
        )
    if repeated:
        warn(f"{repeated} of {len(first_p)} pairs repeat an earlier one; every row counts")
    itself = int(np.count_nonzero(first_p == second_p))
    if itself:
        warn(f"{itself} of {len(first_p)} pairs compare a template with itself; every row counts")
    return first_p, second_p, repeated, itself


def pair_scores(
    templates: Templates, first_p: NDArray[np.int32], second_p: NDArray[np.int32]
) -> Floats:
    """Return the score of each pair of positions, float64 [p], rounded to 12 decimals."""
    score_p = np.empty(len(first_p))

    def score(start: int) -> None:
        part = slice(start, start + PAIR_CHUNK)
        score_p[part] = _grouped_products(templates.vector_td, first_p[part], second_p[part])

    with ThreadPoolExecutor(usable_cores()) as pool:
        list(pool.map(score, range(0, len(first_p), PAIR_CHUNK)))
    return score_p


def verify(
    templates: Templates, pairs: TemplatePairs, mode: Mode, fars: Iterable[float] = FARS
) -> Verification:
    """Return every figure of the pairs; `mode` is the one the templates were pooled in."""
    first_p, second_p, repeated, itself = check_pairs(templates, pairs)
    score_p = pair_scores(templates, first_p, second_p)
    del first_p, second_p  # 125 MB for the pairs of IJB-C, as each of the next
    kinds = [score_p[pairs.same_p], score_p[~pairs.same_p]]
    del score_p
    scored = ScoredPairs(*kinds)
    del kinds
    return Verification(
        mode=str(mode),
        templates=len(templates.id_t),
        media_in_templates=templates.media,
        zero_templates=templates.zero,
        repeated_pairs=repeated,
        pairs_with_itself=itself,
        rates=scored.rates(fars),
    )


def _check_rows(
    faces: Faces,
    plain_nd: Embeddings,
    flipped_nd: Embeddings | None,
    detector_n: Floats,
    mode: Mode,
) -> None:
    n = len(faces.images)
    if plain_nd.ndim != 2 or len(plain_nd) != n or len(detector_n) != n:
        raise ValueError(
            f"embeddings {list(plain_nd.shape)} and {len(detector_n)} detector scores: expected a "
            f"row and a score for each of {n} faces"
        )
    negative = [faces.images[row] for row in np.flatnonzero(detector_n < 0)]
    if mode.use_detector and negative:
        raise ValueError(
            f"{len(negative)} of {n} faces have a negative detector score: {shorten(negative)}; "
            "expected at least 0, as it is a weight; or choose a mode with D0"
        )
    if mode.use_flip and (flipped_nd is None or flipped_nd.shape != plain_nd.shape):
        found = "none" if flipped_nd is None else list(flipped_nd.shape)
        raise ValueError(
            f"mode {mode} needs embeddings of the mirrored images, found {found}: expected "
            f"{list(plain_nd.shape)}; compute them, or choose a mode with F0"
        )


def _features(
    plain_nd: Embeddings,
    flipped_nd: Embeddings | None,
    part: slice,
    detector_n: Floats,
    mode: Mode,
) -> Floats:
    """Return the features of some faces, float64 [n, d], which are the caller's to change."""
    feature_nd = plain_nd.astype(np.float64)
    if mode.use_flip and flipped_nd is not None:
        feature_nd += flipped_nd[part]
    if not mode.keep_norm:
        norm_n = np.linalg.norm(feature_nd, axis=1, keepdims=True)
        feature_nd /= np.where(norm_n == 0, 1.0, norm_n)
    if mode.use_detector:
        feature_nd *= detector_n[:, None]
    return feature_nd


def _add_rows(sum_td: Floats, template_n: NDArray[np.int64], feature_nd: Floats) -> None:
    """Add each row to that of its template."""
    order_n = np.argsort(template_n, kind="stable")
    sorted_n = template_n[order_n]
    starts = np.flatnonzero(np.r_[True, sorted_n[1:] != sorted_n[:-1]])
    sum_td[sorted_n[starts]] += np.add.reduceat(feature_nd[order_n], starts, axis=0)


def _grouped_products(
    vector_td: Floats, first_p: NDArray[np.int32], second_p: NDArray[np.int32]
) -> Floats:
    """Return the products of pairs, those of one first template together.

    That reads a row per pair instead of two, and needs no table of all pairs of templates.
    """
    order_p = np.argsort(first_p, kind="stable")
    first_p, second_p = first_p[order_p], second_p[order_p]
    starts = np.flatnonzero(np.r_[True, first_p[1:] != first_p[:-1]])
    sorted_p = np.empty(len(first_p))
    for start, end in zip(starts, np.r_[starts[1:], len(first_p)], strict=True):
        np.dot(vector_td[second_p[start:end]], vector_td[first_p[start]], out=sorted_p[start:end])
    score_p = np.empty(len(first_p))
    score_p[order_p] = sorted_p.round(SCORE_DECIMALS)
    return score_p
