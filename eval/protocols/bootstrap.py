"""Bootstrap intervals of TAR at FAR and of error rates, by subject or by pair.

Shape legend: p pairs, g genuine pairs, n impostor pairs, s subjects, r replicates.

A replicate draws as many subjects as there are, with replacement. A subject drawn m times is there
m times: a genuine pair of a weighs m[a], an impostor pair of a and b m[a] · m[b]. Weight w means
that the pair is there w times, and the threshold of a rate is chosen anew in each replicate
(Bolle et al., "Error analysis of pattern recognition systems: the subsets bootstrap", 2004).

Where subjects are not known, pairs are drawn instead. Pairs of one person are not independent, so
that interval is too narrow, and says so.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from eval.protocols.ijb_files import shorten
from eval.protocols.rates import Floats, allowed_errors

Counts = NDArray[np.integer]
Replicates = list[float | None]

BY_SUBJECT: Final = "by subject"
BY_PAIR: Final = "by pair: subjects unknown, too narrow"
PERCENTILES: Final = (2.5, 97.5)
MOST_LEFT_OUT: Final = 0.05


@dataclass(frozen=True)
class PairSubjects:
    """Who the people of each pair are, as numbers from 0 to `count` - 1.

    Without `second_p` a pair is drawn with its first person alone, such as a search in a gallery
    that stays as it is.
    """

    first_p: Counts
    second_p: Counts | None
    count: int  # also those in no pair: they are drawn as well


@dataclass(frozen=True)
class BootstrapInterval:
    """The interval of one figure at 95%; None with a reason where too many replicates lack it."""

    method: str
    replicates: int
    left_out: int  # replicates in which the figure has no value
    interval95: tuple[float, float] | None
    reason: str | None = None


class Bootstrap:
    """Scored pairs, sorted once, of which any number of replicates are computed."""

    def __init__(
        self,
        score_p: Floats,
        same_p: NDArray[np.bool_],
        subjects: PairSubjects | None = None,
    ) -> None:
        """Take scores and labels [p], and the subjects of each pair if they are known.

        Raises `ValueError` for labels that contradict the subjects.
        """
        if subjects is not None and subjects.second_p is not None:
            wrong = int(np.count_nonzero((subjects.first_p == subjects.second_p) != same_p))
            if wrong:
                raise ValueError(
                    f"{wrong} of {len(same_p)} pairs have a label that contradicts their subjects: "
                    "expected the same subject in the genuine pairs and two in the others"
                )
        self.method = BY_PAIR if subjects is None else BY_SUBJECT
        self.units = len(same_p) if subjects is None else subjects.count
        # Genuine, impostor pairs in descending order; -score ascends, as a binary search needs.
        self._pairs = [
            pairs[np.argsort(-score_p[pairs])]
            for pairs in (np.flatnonzero(same_p), np.flatnonzero(~same_p))
        ]
        self._negated = [-score_p[pairs] for pairs in self._pairs]
        # What is drawn for each of them: their subjects, or the pairs themselves.
        self._first: list[Counts] = list(self._pairs)
        self._second: Counts | None = None
        if subjects is not None:
            self._first = [subjects.first_p[pairs] for pairs in self._pairs]
            if subjects.second_p is not None:
                self._second = subjects.second_p[self._pairs[1]]

    def tar_at_far(self, draws: Iterable[Counts], fars: Sequence[float]) -> list[Replicates]:
        """Return, for each rate, the TAR of each replicate; None where the rate allows no error.

        A draw says how often each subject, or each pair, was drawn.
        """
        found = [self._tars(draw, fars) for draw in draws]
        return [[one[k] for one in found] for k in range(len(fars))]

    def error_rates(
        self, draws: Iterable[Counts], threshold: float
    ) -> tuple[Replicates, Replicates]:
        """Return FMR and FNMR of each replicate at a fixed threshold; None without such pairs."""
        fmr: Replicates = []
        fnmr: Replicates = []
        for draw in draws:
            genuine_g, impostor_n = self._weights(draw)
            accepted = self._above(0, genuine_g, threshold)
            false_accepts = self._above(1, impostor_n, threshold)
            genuine, impostor = int(genuine_g.sum()), int(impostor_n.sum())
            fmr.append(false_accepts / impostor if impostor else None)
            fnmr.append((genuine - accepted) / genuine if genuine else None)
        return fmr, fnmr

    def tar_intervals(
        self, fars: Sequence[float], replicates: int = 1000, seed: int = 0
    ) -> list[BootstrapInterval]:
        """Return the interval of TAR at each rate; the same seed gives the same interval."""
        draws = draw_counts(self.units, replicates, seed)
        return [self.interval(values) for values in self.tar_at_far(draws, fars)]

    def interval(self, values: Replicates) -> BootstrapInterval:
        """Return the interval of a figure from its replicates."""
        left_out = sum(value is None for value in values)
        found = percentile_interval(values)
        reason = None
        if found is None:
            reason = f"{left_out} of {len(values)} replicates have no value"
        return BootstrapInterval(self.method, len(values), left_out, found, reason)

    def _weights(self, draw: Counts) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return how often each genuine and each impostor pair is there, by descending score."""
        if len(draw) != self.units:
            raise ValueError(f"a draw of {len(draw)}: expected one of {self.units}, {self.method}")
        count = draw.astype(np.int64)
        genuine_g, impostor_n = (count[units] for units in self._first)
        if self._second is not None:
            impostor_n *= count[self._second]
        return genuine_g, impostor_n

    def _tars(self, draw: Counts, fars: Sequence[float]) -> Replicates:
        genuine_g, impostor_n = self._weights(draw)
        count_n = impostor_n.cumsum()
        total = int(count_n[-1]) if len(count_n) else 0
        genuine = int(genuine_g.sum())
        tars: Replicates = []
        for far in fars:
            allowed = allowed_errors(far, total)
            if not allowed or not genuine:
                tars.append(None)
                continue
            threshold = -np.inf
            if allowed < total:  # the (k+1)-th highest score, of pairs that count for their weight
                threshold = -self._negated[1][np.searchsorted(count_n, allowed + 1)]
            tars.append(self._above(0, genuine_g, threshold) / genuine)
        return tars

    def _above(self, kind: int, weight_p: NDArray[np.int64], threshold: float) -> int:
        """Return the weight of the pairs of a kind that score above a threshold."""
        above = np.searchsorted(self._negated[kind], -threshold, side="left")
        return int(weight_p[:above].sum())


def draw_counts(units: int, replicates: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Yield how often each of `units` was drawn, int64, for each replicate.

    A replicate depends on the seed and its number alone, not on who computes it.
    """
    for replicate in range(replicates):
        rng = np.random.default_rng([seed, replicate])
        yield np.bincount(rng.integers(0, units, units), minlength=units)


def pair_subjects(subject_ids: Counts, first_p: Counts, second_p: Counts) -> PairSubjects:
    """Return pairs of ids as places in `subject_ids`; raise `ValueError` for an id not there."""
    missing = np.setdiff1d(np.union1d(first_p, second_p), subject_ids)
    if len(missing):
        raise ValueError(
            f"{len(missing)} subjects of the pairs are not among {len(subject_ids)}: "
            f"{shorten(missing)}; expected all of them"
        )
    order = np.argsort(subject_ids)
    first_p, second_p = (
        order[np.searchsorted(subject_ids, ids, sorter=order)] for ids in (first_p, second_p)
    )
    return PairSubjects(first_p, second_p, len(subject_ids))


def mean_replicates(
    value_t: NDArray[np.floating[Any]] | NDArray[np.bool_],
    subject_t: Counts,
    draws: Iterable[Counts],
) -> Replicates:
    """Return the mean over trials in each replicate, a trial as often as its subject; None of none.

    `subject_t` are numbers from 0; a draw says how often each was drawn.
    """
    found: Replicates = []
    for draw in draws:
        weight_t = draw[subject_t]
        total = int(weight_t.sum())
        found.append(float((value_t * weight_t).sum()) / total if total else None)
    return found


def percentile_interval(values: Replicates) -> tuple[float, float] | None:
    """Return the 2.5 and the 97.5 percentile, linear between values.

    Replicates without a value are left out; None where they are 5% of all or more.
    """
    found = [value for value in values if value is not None]
    if len(values) - len(found) >= MOST_LEFT_OUT * len(values):
        return None
    low, high = np.percentile(found, PERCENTILES)
    return float(low), float(high)
