"""Identification among distractors, as MegaFace defines it.

Shape legend: n probe photos, d embedding size, b distractors of a block, K best scores kept per
photo, t trials, g pairs of photos of one person, i impostor scores.

Every ordered pair (i, j) of photos of one person is a trial: photo i alone joins the distractors as
the mate, and its rank is one plus the distractors that score at least s(i, j) with photo i, so that
ties lose. The source is Kemelmacher-Shlizerman et al., "The MegaFace Benchmark: 1 Million Faces for
Recognition at Scale", 2016. Verification compares every pair of photos of one person, once, with
all pairs of a probe photo and a distractor.

Distractors come in blocks and are read once: a million of them take no memory. Kept are the best
scores of each photo, and over all photos those that decide the largest false accept rate.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from eval.protocols.rates import FARS, Scores, TarAtFar, allowed_errors, operating_point, warn

Bools = NDArray[np.bool_]
Integers = NDArray[np.int64]
Noise = Literal["as_listed", "dropped", "replaced_as_published"]

RANKS: Final = (1, 5, 10)
# A rate of 0.1 of a million distractors and 3,530 photos would keep 353 million scores.
VERIFICATION_FARS: Final = FARS[:-1]
# Every product has this many columns, the last block filled up with zeros: a BLAS then adds up each
# score in the same order, and a copy of the mate among the distractors ties with it to the bit.
_BLOCK: Final = 2048
_NAMES: Final = 10  # of people in a warning


@dataclass(frozen=True)
class Identification:
    """The figures of identification among distractors."""

    probes: int  # photos
    people: int
    distractors: int
    trials: int  # ordered pairs of photos of one person
    rank: dict[int, float]  # fraction of trials whose mate has this rank or a better one
    tar_at_far: tuple[TarAtFar, ...]  # of every pair of photos of one person, once


@dataclass(frozen=True, eq=False)
class Outcomes:
    """The figures, and what each trial found."""

    figures: Identification
    person_t: NDArray[np.str_]
    first_t: Bools  # whether the mate had rank 1


def apply_noise(
    probe_nd: Scores, people: Sequence[str], noisy_n: Bools, noise: str
) -> tuple[Scores, Sequence[str]]:
    """Return the probe photos and their people after a rule for the noisy ones.

    `as_listed` keeps them and `dropped` leaves them out. `replaced_as_published` makes each the
    unit centre of its person's other photos, as the evaluation script of insightface does: that is
    right by construction and inflates rank 1, so use it to compare with papers alone. Raises
    `ValueError` for another rule, and for a person without other photos under the published one.
    """
    if noise not in get_args(Noise):
        raise ValueError(f"noise is {noise!r}: expected one of {', '.join(get_args(Noise))}")
    if noise == "as_listed":
        return probe_nd, people
    if noise == "dropped":
        return probe_nd[~noisy_n], [people[row] for row in np.flatnonzero(~noisy_n).tolist()]
    units_nd, names_n = _unit(probe_nd, "probe"), np.asarray(people)
    for row in np.flatnonzero(noisy_n).tolist():
        clean_n = (names_n == names_n[row]) & ~noisy_n
        if not clean_n.any():
            raise ValueError(
                f"all {np.count_nonzero(names_n == names_n[row])} probe photos of {people[row]} "
                "are listed as noise: expected one without, to take the centre of; drop the noisy "
                "ones instead, or correct the list"
            )
        centre_d = _unit(probe_nd[clean_n], "probe").mean(axis=0)
        units_nd[row] = _unit(centre_d[None], "centre")[0]
    return units_nd, people


def identify(
    probe_nd: Scores,
    people: Sequence[str],  # [n], who is on each photo
    distractors: Iterable[Scores],  # blocks [any, d]; read once
    distractor_count: int,
    *,
    ranks: Sequence[int] = RANKS,
    fars: Sequence[float] = VERIFICATION_FARS,
) -> Identification:
    """Return the figures of all trials, and TAR at FAR; raises what `search` does."""
    return search(probe_nd, people, distractors, distractor_count, ranks=ranks, fars=fars).figures


def search(
    probe_nd: Scores,
    people: Sequence[str],
    distractors: Iterable[Scores],
    distractor_count: int,
    *,
    ranks: Sequence[int] = RANKS,
    fars: Sequence[float] = VERIFICATION_FARS,
) -> Outcomes:
    """Return the figures of all trials, TAR at FAR, and what each trial found; takes as `identify`.

    Scores are cosines, computed in the dtype of `probe_nd`, at least float32, which takes half the
    time and memory of float64. Memory grows with the largest of `fars`, by up to six scores for
    each of the false accepts that it allows. People with one photo have no trial: a warning
    names them. Raises `ValueError` for embeddings that are not finite or not [any, d], for another
    number of people or of distractors, for ranks below 1 and rates outside (0, 1], and if nobody
    has two photos.
    """
    if len(people) != len(probe_nd) or min(ranks, default=0) < 1:
        raise ValueError(
            f"{len(probe_nd)} probe photos, {len(people)} names of people and ranks {[*ranks]}: "
            "expected a name per photo, and ranks from 1"
        )
    units_nd = _unit(probe_nd, "probe")
    photo_t, mate_t = _trials(people)
    mate_scores_t = _mate_scores(units_nd, photo_t, mate_t)
    best_nK = np.full((len(units_nd), max(ranks)), -np.inf, units_nd.dtype)
    impostors = len(units_nd) * distractor_count
    highest = _Highest(max((allowed_errors(far, impostors) + 1 for far in fars), default=1))
    count = 0
    for scores_nb in _block_scores(units_nd, distractors):
        count += scores_nb.shape[1]
        _keep_best(best_nK, scores_nb)
        highest.add(scores_nb)
    if count != distractor_count or not count:
        raise ValueError(
            f"{count} distractors: expected {distractor_count}, and at least 1; see whether the "
            "list is complete, and whether all are listed as noise"
        )
    best_nK[:] = -np.sort(-best_nK, axis=1)
    # The mate has rank k or a better one where fewer than k distractors score at least as high.
    rank = {k: float(np.mean(best_nK[photo_t, k - 1] < mate_scores_t)) for k in ranks}
    genuine_g, highest_i = np.sort(mate_scores_t[photo_t < mate_t]), highest.ascending()
    figures = Identification(
        probes=len(units_nd),
        people=len(set(people)),
        distractors=count,
        trials=len(photo_t),
        rank=rank,
        tar_at_far=tuple(operating_point(genuine_g, highest_i, impostors, far) for far in fars),
    )
    return Outcomes(figures, np.array(people)[photo_t], best_nK[photo_t, 0] < mate_scores_t)


def _trials(people: Sequence[str]) -> tuple[Integers, Integers]:
    """Return photo i and photo j of every trial, int64 [t] each."""
    rows: dict[str, list[int]] = {}
    for row, person in enumerate(people):
        rows.setdefault(person, []).append(row)
    single = [person for person, own in rows.items() if len(own) == 1]
    if len(single) == len(rows):
        raise ValueError(
            f"{len(rows)} people, and nobody has two photos: a trial needs a photo to search and "
            "another to find; add photos, or see whether each photo has its person's name"
        )
    if single:
        warn(
            f"{len(single)} of {len(rows)} people have one photo and no trial: "
            f"{', '.join(map(str, single[:_NAMES]))}{' …' if len(single) > _NAMES else ''}; add "
            "photos of them, or leave them out"
        )
    pairs = [(i, j) for own in rows.values() for i in own for j in own if i != j]
    photo_t, mate_t = np.array(pairs, dtype=np.int64).T
    return photo_t, mate_t


def _mate_scores(units_nd: Scores, photo_t: Integers, mate_t: Integers) -> Scores:
    """Return the score of photo i with photo j of every trial, [t]."""
    scores_t = np.empty(len(photo_t), units_nd.dtype)
    start = 0
    for scores_nb in _products(units_nd, [units_nd]):
        here_t = (mate_t >= start) & (mate_t < start + scores_nb.shape[1])
        scores_t[here_t] = scores_nb[photo_t[here_t], mate_t[here_t] - start]
        start += scores_nb.shape[1]
    return scores_t


def _block_scores(units_nd: Scores, blocks: Iterable[Scores]) -> Iterator[Scores]:
    """Yield the scores of all photos with each block of distractors, [n, b]."""
    units = (_unit(block_bd, "distractor", units_nd.shape[1]) for block_bd in blocks)
    return _products(units_nd, (block_bd.astype(units_nd.dtype) for block_bd in units))


def _products(units_nd: Scores, blocks: Iterable[Scores]) -> Iterator[Scores]:
    """Yield the products of all photos with up to `_BLOCK` rows at a time, [n, b]."""
    padded_bd = np.zeros((_BLOCK, units_nd.shape[1]), units_nd.dtype)
    scores_nb = np.empty((len(units_nd), _BLOCK), units_nd.dtype)
    for block_bd in blocks:
        for start in range(0, len(block_bd), _BLOCK):
            part_bd = block_bd[start : start + _BLOCK]
            padded_bd[: len(part_bd)] = part_bd
            padded_bd[len(part_bd) :] = 0
            np.matmul(units_nd, padded_bd.T, out=scores_nb)
            yield scores_nb[:, : len(part_bd)]


def _keep_best(best_nK: Scores, scores_nb: Scores) -> None:
    """Merge the scores of a block into the highest of each photo so far, in any order."""
    keep = best_nK.shape[1]
    # Soon few photos meet a distractor among their best ones: the others need no sorting.
    rows = np.flatnonzero(scores_nb.max(axis=1) > best_nK.min(axis=1))
    joined = np.concatenate([best_nK[rows], scores_nb[rows]], axis=1)
    best_nK[rows] = np.partition(joined, -keep, axis=1)[:, -keep:]


class _Highest:
    """The highest scores of all that were added."""

    def __init__(self, keep: int) -> None:
        self.keep = keep
        self.parts: list[Scores] = []
        self.held = 0
        self.floor = -np.inf  # no lower score is among the highest

    def add(self, scores: Scores) -> None:
        """Take what may be among the highest."""
        self.parts.append(scores[scores > self.floor])
        self.held += len(self.parts[-1])
        if self.held > 2 * self.keep:
            self._cut()

    def ascending(self) -> Scores:
        """Return the scores in ascending order."""
        self._cut()
        return np.sort(self.parts[0])

    def _cut(self) -> None:
        scores = np.concatenate(self.parts)
        self.parts = []
        if len(scores) > self.keep:
            scores.partition(len(scores) - self.keep)
            scores = scores[-self.keep :].copy()
            self.floor = float(scores.min())
        self.parts, self.held = [scores], len(scores)


def _unit(rows_nd: Scores, what: str, size: int | None = None) -> Scores:
    """Return rows divided by their lengths, in float32 or their wider dtype; zero stays zero."""
    rows_nd = rows_nd.astype(np.result_type(rows_nd, np.float32), copy=False)
    if rows_nd.ndim != 2 or size not in (None, rows_nd.shape[1]):
        raise ValueError(
            f"{what} embeddings of shape {rows_nd.shape}: expected [any, {size or 'd'}], as of "
            "the probe photos; embed both with the same network"
        )
    finite_n = np.logical_and.reduce(np.isfinite(rows_nd), axis=1)
    if not finite_n.all():
        raise ValueError(
            f"{np.count_nonzero(~finite_n)} of {len(finite_n)} {what} embeddings are not finite, "
            f"row {int(np.argmin(finite_n))} first: expected numbers; embed these images again"
        )
    lengths_n = np.linalg.norm(rows_nd, axis=1, keepdims=True)
    units_nd: Scores = rows_nd / np.where(lengths_n == 0, 1, lengths_n)
    return units_nd
