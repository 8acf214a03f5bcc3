"""Every 1:1 figure of scored pairs, with intervals, and what curves and histograms need.

Shape legend: p pairs, g genuine pairs, n impostor pairs.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import log10, sqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray

from eval.protocols.bootstrap import Bootstrap, PairSubjects, Replicates, draw_counts
from eval.protocols.fairness import Fairness, fairness
from eval.protocols.rates import Floats, ProtocolWarning, ScoredPairs
from eval.results import BandPoint, DetCurve, GroupCurve, RateRow, ScoreHistogram, Verification

Bools = NDArray[np.bool_]

FEW_ERRORS: Final = 30  # Doddington's rule: 30 errors give a rate to within 30%, at 90%
CURVE_POINTS: Final = 1500  # of each kind of error, where a curve is thinned
GROUP_POINTS: Final = 150  # as there may be many groups
BINS: Final = 100


@dataclass(frozen=True)
class Draws:
    """What every bootstrap of a suite draws."""

    replicates: int
    seed: int


@dataclass(frozen=True, eq=False)
class Scored:
    """Figures of scored pairs, and what other sets and models are compared with."""

    pairs: ScoredPairs
    figures: Verification
    fars: tuple[float, ...]
    replicates: list[Replicates]  # of the TAR at each of `fars`

    @property
    def drawn(self) -> list["Drawn"]:
        """TAR at each of `fars`."""
        method = self.figures.interval_method
        return [
            Drawn("TAR", row.point.far, row.point.tar, row.point.reason, method, values)
            for row, values in zip(self.figures.rows, self.replicates, strict=True)
        ]


@dataclass(frozen=True, eq=False)
class Drawn:
    """A figure of one model and its values in all replicates, to compare with another's."""

    figure: str
    rate: float | None  # the FAR or FPIR that it belongs to, if any
    value: float | None
    reason: str | None  # why it has none
    method: str  # of the bootstrap
    replicates: Replicates


@dataclass(frozen=True, eq=False)
class Searched:
    """What the searches of other models are compared with."""

    drawn: list[Drawn]


def verification(
    score_p: Floats,
    same_p: Bools,
    subjects: PairSubjects | None,
    fars: Sequence[float],
    draws: Draws,
) -> Scored:
    """Return every figure. Raises `ValueError` as `ScoredPairs` and `Bootstrap` do."""
    pairs = ScoredPairs(score_p[same_p], score_p[~same_p])
    rates = pairs.rates(fars)
    bootstrap = Bootstrap(score_p, same_p, subjects)
    roc = rates.roc_log
    drawn = draw_counts(bootstrap.units, draws.replicates, draws.seed)
    found = bootstrap.tar_at_far(drawn, [*fars, *(far for far, _ in roc)])
    replicates, along_curve = found[: len(fars)], found[len(fars) :]
    band = []
    for (far, tar), values in zip(roc, along_curve, strict=True):
        if (limits := bootstrap.interval(values).interval95) is not None:
            band.append(BandPoint(far, tar, *limits))
    rows = [
        RateRow(
            point=point,
            threshold_distance=None if point.threshold is None else 2 - 2 * point.threshold,
            few_errors=point.false_accepts is not None and point.false_accepts < FEW_ERRORS,
            interval=bootstrap.interval(values) if values and point.tar is not None else None,
            published_tpr=published.tpr,
            published_fpr=published.fpr_of_point,
        )
        for point, published, values in zip(
            rates.tar_at_far, rates.published_tpr_at_fpr, replicates, strict=True
        )
    ]
    figures = Verification(
        rows=tuple(rows),
        at_zero_far=rates.tar_at_zero_far,
        eer=rates.eer,
        auc=rates.auc,
        d_prime=d_prime(pairs),
        interval_method=bootstrap.method,
        det=det_curve(pairs),
        band=tuple(band),
        histogram=histogram(pairs),
    )
    return Scored(pairs, figures, tuple(fars), replicates)


def d_prime(pairs: ScoredPairs) -> float | None:
    """Return the distance of the mean scores in standard deviations; None where none varies."""
    variance = float(pairs.genuine_g.var() + pairs.impostor_n.var()) / 2
    if variance == 0:
        return None
    return float(pairs.genuine_g.mean() - pairs.impostor_n.mean()) / sqrt(variance)


def det_curve(pairs: ScoredPairs, most: int = CURVE_POINTS) -> DetCurve:
    """Return FMR and FNMR at every distinct score, or at a spread of them where there are many.

    The spread has about `most` numbers of false accepts and as many of false rejects, evenly on a
    logarithmic scale, so that both ends of the curve keep every single error.
    """
    g, n = len(pairs.genuine_g), len(pairs.impostor_n)
    distinct = np.union1d(pairs.genuine_g, pairs.impostor_n)
    complete = len(distinct) <= 2 * most
    if not complete:
        distinct = np.unique(
            np.concatenate(
                [
                    pairs.impostor_n[n - _spread(n, most)],
                    pairs.genuine_g[_spread(g, most) - 1],
                    distinct[[0, -1]],
                ]
            )
        )
    above_n = n - np.searchsorted(pairs.impostor_n, distinct, side="right")
    not_above_g = np.searchsorted(pairs.genuine_g, distinct, side="right")
    return DetCurve(
        threshold=tuple(distinct.tolist()),
        fmr=tuple((above_n / n).tolist()),
        fnmr=tuple((not_above_g / g).tolist()),
        complete=complete,
        least_fmr=1 / n,
    )


def _spread(count: int, most: int) -> NDArray[np.int64]:
    """Return numbers from 1 to `count`, about `most`, evenly on a logarithmic scale."""
    return np.unique(np.rint(np.logspace(0, log10(count), most)).astype(np.int64)).clip(1, count)


def histogram(pairs: ScoredPairs, bins: int = BINS) -> ScoreHistogram:
    """Return the numbers of pairs in equal bins from the lowest to the highest score."""
    lowest = min(pairs.genuine_g[0], pairs.impostor_n[0])
    highest = max(pairs.genuine_g[-1], pairs.impostor_n[-1])
    edges = np.histogram_bin_edges([lowest, highest], bins)
    genuine, impostor = (np.histogram(one, edges)[0] for one in (pairs.genuine_g, pairs.impostor_n))
    return ScoreHistogram(tuple(edges.tolist()), tuple(genuine.tolist()), tuple(impostor.tolist()))


def groups_of(
    score_p: Floats, same_p: Bools, group_2p: NDArray[np.str_], far: float
) -> tuple[Fairness, tuple[GroupCurve, ...]]:
    """Return the groups at the threshold of all, and each with its own; raises as `fairness` does.

    `group_2p` are the groups of both people of each pair, one pair after the other.
    """
    first_p, second_p = group_2p[0::2], group_2p[1::2]
    found = fairness(score_p, same_p, first_p.tolist(), second_p.tolist(), far)
    curves = []
    for one in found.groups:
        if one.genuine and one.impostor:
            inside_p = (first_p == one.group) & (second_p == one.group)
            pairs = ScoredPairs(score_p[inside_p & same_p], score_p[inside_p & ~same_p])
            point = pairs.tar_at_far(far)
            curves.append(GroupCurve(one.group, point, det_curve(pairs, GROUP_POINTS)))
    return found, tuple(curves)


@contextmanager
def noted() -> Iterator[list[str]]:
    """Yield a list that gets what protocols warn of, instead of stderr."""
    found: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield found
    for one in caught:
        if issubclass(one.category, ProtocolWarning):
            found.append(str(one.message))
        else:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
