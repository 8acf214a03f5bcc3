"""Identification of faces of low resolution, as TinyFace defines it.

Shape legend: p probes, g gallery images (the matches first, then the distractors), d embedding
size, c probes of a chunk.

Every probe is compared with the whole gallery; several gallery images may show its person, the
mates. Its rank is one plus the images of others that score at least the best mate, so that ties
lose. The source is Cheng, Zhu and Gong, "Low-Resolution Face Recognition", 2018. Probes without a
mate have no rank: they are counted and left out of the means. The published script divides by zero
for them, and others leave them out without a word.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from eval.protocol import unit
from eval.protocols.pair_lists import read_matlab
from eval.protocols.rates import warn

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

RANKS: Final = (1, 5, 20)
_CHUNK: Final = 64  # probes whose scores are in memory: 80 MB for TinyFace's gallery

_PART: Final = 4096  # rows normalised at once


@dataclass(frozen=True)
class TinyFaceResult:
    """The figures of TinyFace."""

    probes: int
    mated_probes: int  # with an image of their person in the gallery
    probes_without_mate: int
    gallery: int  # images, distractors among them
    rank: dict[int, float]  # fraction of the mated probes with this rank or a better one
    map: float  # mean average precision over the mated probes


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What the search of each probe that has a mate found."""

    person_p: Integers
    rank_p: Integers
    precision_p: Floats  # average precision
    without_mate: int  # probes
    gallery: int  # images

    def figures(self, ranks: Sequence[int] = RANKS) -> TinyFaceResult:
        """Return rank-k and mean average precision; raises `ValueError` for a rank below 1."""
        if min(ranks, default=0) < 1:
            raise ValueError(f"ranks {[*ranks]}: expected one or more, from 1")
        return TinyFaceResult(
            probes=len(self.rank_p) + self.without_mate,
            mated_probes=len(self.rank_p),
            probes_without_mate=self.without_mate,
            gallery=self.gallery,
            rank={k: float(np.mean(self.rank_p <= k)) for k in ranks},
            map=float(np.mean(self.precision_p)),
        )


def identify(
    probe_pd: NDArray[np.floating[Any]],
    probe_ids: Integers,
    gallery_gd: NDArray[np.floating[Any]],
    gallery_ids: Integers,
    *,
    ranks: Sequence[int] = RANKS,
) -> TinyFaceResult:
    """Return rank-k and mean average precision; takes and raises what `search` does."""
    return search(probe_pd, probe_ids, gallery_gd, gallery_ids).figures(ranks)


def search(
    probe_pd: NDArray[np.floating[Any]],
    probe_ids: Integers,  # [p]
    gallery_gd: NDArray[np.floating[Any]],  # first those with an identity, then the distractors
    gallery_ids: Integers,  # [g or fewer]; images after them have no identity
) -> Outcomes:
    """Search for every probe in the gallery; scores are cosines in float64.

    Warns of probes without a mate. Raises `ValueError` for embeddings that are not finite or of
    different sizes, for numbers of ids that do not match, and if no probe has a mate.
    """
    _check("probe", probe_pd, probe_ids, complete=True)
    _check("gallery", gallery_gd, gallery_ids, complete=False)
    if probe_pd.shape[1] != gallery_gd.shape[1]:
        raise ValueError(
            f"probes of {probe_pd.shape[1]} and gallery images of {gallery_gd.shape[1]} numbers: "
            "expected one size; embed both with one network"
        )
    mated_p = np.isin(probe_ids, gallery_ids)
    missing = int(np.count_nonzero(~mated_p))
    if missing == len(mated_p):
        raise ValueError(
            f"none of {missing} probes has a mate among {len(gallery_ids)} gallery images with an "
            "identity: expected the ids of both to be of one numbering"
        )
    if missing:
        warn(
            f"{missing} of {len(mated_p)} probes have no mate in the gallery: they have no rank "
            "and count in no mean; see whether the gallery is complete"
        )
    units_gd, probe_ids = _units(gallery_gd), probe_ids[mated_p]
    probe_units_pd = _units(probe_pd[mated_p])
    rank_p = np.empty(len(probe_ids), dtype=np.int64)
    precision_p = np.empty(len(probe_ids))
    for start in range(0, len(probe_ids), _CHUNK):
        scores_cg = probe_units_pd[start : start + _CHUNK] @ units_gd.T
        for row, scores_g in enumerate(scores_cg, start=start):
            positions = mate_positions(scores_g, np.flatnonzero(gallery_ids == probe_ids[row]))
            rank_p[row] = positions[0]
            precision_p[row] = average_precision(positions)
    return Outcomes(probe_ids, rank_p, precision_p, missing, len(gallery_gd))


def mate_positions(scores_g: Floats, mates: Integers) -> Integers:
    """Return the positions of the mates in the ranked gallery, from 1, ascending.

    The image of another person stands before a mate of the same score.
    """
    mate_scores = np.sort(scores_g[mates])[::-1, None]
    others = np.sum(scores_g >= mate_scores, axis=1) - np.sum(mate_scores <= mate_scores.T, axis=1)
    positions: Integers = others + np.arange(1, len(mates) + 1)
    return positions


def average_precision(positions: Integers) -> float:
    """Return the area under precision over recall, by trapezoids from (0, 1) to the last mate.

    `positions` are those of the mates in the ranked list, from 1. Between two mates precision falls
    at the same recall, which adds no area; so the trapezoid at mate m goes from the precision
    one position before it.
    """
    hits = np.arange(1, len(positions) + 1)
    before = np.ones(len(positions))
    np.divide(hits - 1, positions - 1, out=before, where=positions > 1)
    return float(np.mean((before + hits / positions) / 2))


def read_image_ids(path: Path, kind: str) -> tuple[list[str], Integers]:
    """Return the file names and ids of a list, `kind` being "gallery" or "probe".

    A `.mat` file holds them as `<kind>_set` and `<kind>_ids`. Raises `ValueError` for another file.
    """
    content = read_matlab(path)
    try:
        names = [str(cell.item()) for cell in content[f"{kind}_set"].ravel()]
        ids = content[f"{kind}_ids"].ravel().astype(np.int64)
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: {type(error).__name__}: {error}; expected {kind}_set with a name per image "
            f"and {kind}_ids with a number per image; download the file again"
        ) from error
    if len(names) != len(ids) or not names:
        raise ValueError(
            f"{path}: {len(names)} names in {kind}_set and {len(ids)} numbers in {kind}_ids: "
            "expected equally many, and at least one; download the file again"
        )
    return names, ids


def _units(rows_nd: NDArray[np.floating[Any]]) -> Floats:
    """Return unit rows in float64, a part at a time: TinyFace's gallery takes 650 MB as it is."""
    units_nd = np.empty(rows_nd.shape)
    for start in range(0, len(rows_nd), _PART):
        part = slice(start, start + _PART)
        units_nd[part] = unit(rows_nd[part].astype(np.float64))
    return units_nd


def _check(what: str, rows: NDArray[np.floating[Any]], ids: Integers, *, complete: bool) -> None:
    """Raise `ValueError` unless rows are finite [any, d] with an id each, or one for the first."""
    if rows.ndim != 2 or len(ids) > len(rows) or (complete and len(ids) != len(rows)):
        raise ValueError(
            f"{what} embeddings of shape {rows.shape} and {len(ids)} ids: expected [any, d] and "
            f"{'an id per row' if complete else 'at most an id per row'}"
        )
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        raise ValueError(
            f"{np.count_nonzero(~finite)} of {len(finite)} {what} embeddings are not finite, row "
            f"{int(np.argmin(finite))} first: expected numbers; embed these images again"
        )
