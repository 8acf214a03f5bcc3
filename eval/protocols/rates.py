"""Error rates of scored pairs: TAR at FAR, EER, AUC, and the reading that published tables use.

Shape legend: g genuine pairs, n impostor pairs, p points of a ROC curve.

Scores are similarities, usually cosines: a pair is accepted when its score is **above** the
threshold. FMR (also FAR, FPR) is the part of the impostor pairs that is accepted, FNMR the part of
the genuine pairs that is not, TAR (TPR) is 1 - FNMR (ISO/IEC 19795-1:2021).

Two readings of "TAR at FAR" are here, because published scripts disagree in silence. `tar_at_far`
never exceeds the rate and has no value where the pairs cannot support one. `published_tpr_at_fpr`
is what IJB tables in papers rest on; it can exceed the rate, and it has a number for every rate.
"""

import math
import warnings
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Scores = NDArray[np.floating]
Interval = tuple[float, float]

Z_95: Final = 1.959963984540054
# A rate such as 0.29 of 100 pairs means 29 of them; in floating point the product is below 29.
ROUNDING: Final = 1 + 1e-9
POINT_CHUNK: Final = 1 << 20  # points of a ROC curve at once: 8 MB
FARS: Final = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)


class ProtocolWarning(UserWarning):
    """A figure stands, and the data behind it are not what the protocol expects."""


@dataclass(frozen=True)
class TarAtFar:
    """The operating point at one false accept rate; `tar` is None with a reason, or a number."""

    far: float
    tar: float | None
    reason: str | None = None
    threshold: float | None = None  # None where every pair is accepted
    false_accepts: int | None = None
    far_achieved: float | None = None
    accepted: int | None = None  # genuine pairs
    tar_wilson95: Interval | None = None
    far_wilson95: Interval | None = None


@dataclass(frozen=True)
class TarAtZeroFar:
    """The operating point without a false accept: no impostor pair scores above it."""

    tar: float
    threshold: float
    far_upper_95: float


@dataclass(frozen=True)
class EqualErrorRate:
    """`eer` is the middle of `low` and `high`, the two rates at the threshold."""

    eer: float
    low: float
    high: float
    threshold: float | None  # None where every pair is accepted


@dataclass(frozen=True)
class PublishedTpr:
    """The nearest point of scikit-learn's ROC curve."""

    far: float
    tpr: float
    fpr_of_point: float


@dataclass(frozen=True)
class ErrorRates:
    """FMR and FNMR at a threshold that was given, such as one chosen on another set."""

    threshold: float
    false_accepts: int
    false_rejects: int
    fmr: float
    fnmr: float
    fmr_wilson95: Interval
    fnmr_wilson95: Interval


@dataclass(frozen=True)
class Rates:
    """Every figure of one set of scored pairs."""

    genuine: int
    impostor: int
    tar_at_far: tuple[TarAtFar, ...]
    tar_at_zero_far: TarAtZeroFar
    eer: EqualErrorRate
    auc: float
    roc_log: tuple[tuple[float, float], ...]  # (FAR, TAR), four per decade
    published_tpr_at_fpr: tuple[PublishedTpr, ...]


class ScoredPairs:
    """The scores of genuine and of impostor pairs, checked and sorted once for all figures."""

    def __init__(self, genuine: Floats, impostor: Floats) -> None:
        """Raise `ValueError` for scores that are not finite, and unless there are some of both."""
        scores = [np.asarray(one, dtype=np.float64).ravel() for one in (genuine, impostor)]
        g, n = (one.size for one in scores)
        if not g or not n:
            raise ValueError(
                f"{g} genuine and {n} impostor pairs: expected some of both kinds; check the labels"
            )
        bad = sum(int(np.count_nonzero(~np.isfinite(one))) for one in scores)
        if bad:
            raise ValueError(
                f"{bad} of {g + n} scores are not finite: expected "
                "numbers; check the embeddings for NaN"
            )
        # Ascending: a binary search then counts the scores above any threshold.
        self.genuine_g, self.impostor_n = (np.sort(one) for one in scores)

    def accepted(self, threshold: float) -> tuple[int, int]:
        """Return how many genuine and how many impostor pairs score above the threshold."""
        return _above(self.genuine_g, threshold), _above(self.impostor_n, threshold)

    def tar_at_far(self, far: float) -> TarAtFar:
        """Return the highest TAR whose threshold keeps the FAR at or below `far`.

        With k = floor(far · n) the threshold is the (k+1)-th highest impostor score, so impostors
        that tie there are all refused. Raises `ValueError` for a rate outside (0, 1].
        """
        return operating_point(self.genuine_g, self.impostor_n, len(self.impostor_n), far)

    def tar_at_zero_far(self) -> TarAtZeroFar:
        """Return the TAR at the highest impostor score, and what no false accept says of FAR."""
        threshold = float(self.impostor_n[-1])
        accepted, _ = self.accepted(threshold)
        bound = upper_bound_at_no_errors(len(self.impostor_n))
        return TarAtZeroFar(accepted / len(self.genuine_g), threshold, bound)

    def eer(self) -> EqualErrorRate:
        """Return the equal error rate as FVC2000 defines it, an interval and its middle.

        Of the distinct scores and -inf, take the first threshold with FMR <= FNMR and the one
        before it; the one with the smaller sum of both rates counts, the lower one in a draw.
        """
        n, g = len(self.impostor_n), len(self.genuine_g)

        def errors(threshold: float) -> tuple[int, int]:
            """Return FMR and FNMR as whole numbers, over the common denominator n · g."""
            accepted, false_accepts = self.accepted(threshold)
            return false_accepts * g, (g - accepted) * n

        def crossed(threshold: float) -> bool:
            false_match, false_non_match = errors(threshold)
            return false_match <= false_non_match

        # FMR falls and FNMR rises with the threshold: a binary search in each list of scores.
        after, before = math.inf, -math.inf
        for scores in (self.genuine_g, self.impostor_n):
            i = bisect_left(scores, True, key=crossed)
            after = min(after, scores[i]) if i < len(scores) else after
            before = max(before, scores[i - 1]) if i > 0 else before
        chosen = after
        if errors(after)[0] != errors(after)[1] and sum(errors(before)) <= sum(errors(after)):
            chosen = before
        accepted, false_accepts = self.accepted(chosen)
        low, high = sorted((false_accepts / n, (g - accepted) / g))
        return EqualErrorRate((low + high) / 2, low, high, _finite(float(chosen)))

    def auc(self) -> float:
        """Return the chance that a genuine pair scores above an impostor pair, ties half."""
        below_g = np.searchsorted(self.impostor_n, self.genuine_g, side="left")
        not_above_g = np.searchsorted(self.impostor_n, self.genuine_g, side="right")
        twice = int(below_g.sum()) + int(not_above_g.sum())
        return twice / (2 * len(self.genuine_g) * len(self.impostor_n))

    def published_points(self) -> tuple[Floats, Floats]:
        """Return fpr and tpr [p] of scikit-learn's `roc_curve` with its defaults.

        Computed from the sorted scores, as `roc_curve` itself takes 850 MB on top of the scores
        for the 15.7 million pairs of IJB-C. As there, a point is left out where both counts go on
        in equal steps, and (0, 0) comes first.
        """
        scores = (self.impostor_n, self.genuine_g)
        thresholds_p = np.concatenate(scores)
        thresholds_p.sort()
        if not (distinct_p := np.append(thresholds_p[1:] != thresholds_p[:-1], True)).all():
            thresholds_p = thresholds_p[distinct_p]
        thresholds_p = thresholds_p[::-1]
        last = len(thresholds_p) - 1
        kept = [(np.zeros(1, np.int64), np.zeros(1, np.int64))]
        for start in range(0, last + 1, POINT_CHUNK):
            # With the point before and the point after, which the steps need.
            first, end = max(start - 1, 0), min(start + POINT_CHUNK, last) + 1
            part = thresholds_p[first:end]
            fp_p, tp_p = (len(one) - np.searchsorted(one, part, side="left") for one in scores)
            kept_p = np.ones(len(part), dtype=np.bool_)
            kept_p[1:-1] = (np.diff(fp_p, 2) != 0) | (np.diff(tp_p, 2) != 0)
            own = slice(start - first, start - first + POINT_CHUNK)
            kept.append((fp_p[own][kept_p[own]], tp_p[own][kept_p[own]]))
        fp_p, tp_p = (np.concatenate(one) for one in zip(*kept, strict=True))
        return fp_p / fp_p[-1], tp_p / tp_p[-1]

    def published_tpr_at_fpr(self, fars: Iterable[float]) -> tuple[PublishedTpr, ...]:
        """Return, for each rate, the point of the curve whose fpr is nearest to it.

        Equally near: the larger fpr, then the larger tpr. Source: `eval_ijbc.py` of insightface.
        """
        fpr_p, tpr_p = self.published_points()
        found = []
        for far in fars:
            distance_p = np.abs(fpr_p - far)
            # Both rates ascend, so the last of the nearest points is the one.
            point = np.flatnonzero(distance_p == distance_p.min())[-1]
            found.append(PublishedTpr(far, float(tpr_p[point]), float(fpr_p[point])))
        return tuple(found)

    def roc_log(self) -> tuple[tuple[float, float], ...]:
        """Return (FAR, TAR) at four rates per decade, from the finest that is supported to 1."""
        points = []
        step = 0
        while (tar := self.tar_at_far(far := 10 ** (-step / 4)).tar) is not None:
            points.append((far, tar))
            step += 1
        return tuple(reversed(points))

    def at_threshold(self, threshold: float) -> ErrorRates:
        """Return the error rates at a threshold that was chosen elsewhere."""
        n, g = len(self.impostor_n), len(self.genuine_g)
        accepted, false_accepts = self.accepted(threshold)
        return ErrorRates(
            threshold=threshold,
            false_accepts=false_accepts,
            false_rejects=g - accepted,
            fmr=false_accepts / n,
            fnmr=(g - accepted) / g,
            fmr_wilson95=wilson(false_accepts, n),
            fnmr_wilson95=wilson(g - accepted, g),
        )

    def rates(self, fars: Iterable[float] = FARS) -> Rates:
        """Return every figure; warn of scores that are all equal, or that rank below chance."""
        fars = tuple(fars)
        auc = self.auc()
        lowest = min(self.genuine_g[0], self.impostor_n[0])
        highest = max(self.genuine_g[-1], self.impostor_n[-1])
        if lowest == highest:
            warn(
                f"all {len(self.genuine_g) + len(self.impostor_n)} scores are {lowest}: expected "
                "different ones; the network has collapsed, or the embeddings were not computed"
            )
        elif auc < 0.5:
            warn(
                f"AUC {auc:.4f} is below chance, 0.5: expected similarities, higher for the same "
                "person; pass distances with a minus sign, and check the labels"
            )
        return Rates(
            genuine=len(self.genuine_g),
            impostor=len(self.impostor_n),
            tar_at_far=tuple(self.tar_at_far(far) for far in fars),
            tar_at_zero_far=self.tar_at_zero_far(),
            eer=self.eer(),
            auc=auc,
            roc_log=self.roc_log(),
            published_tpr_at_fpr=self.published_tpr_at_fpr(fars),
        )


def tar_at_far(genuine: Floats, impostor: Floats, far: float) -> TarAtFar:
    """Return `ScoredPairs.tar_at_far` of scores [g] and [n], for a single rate."""
    return ScoredPairs(genuine, impostor).tar_at_far(far)


def operating_point(genuine_g: Scores, highest_m: Scores, impostors: int, far: float) -> TarAtFar:
    """Return `ScoredPairs.tar_at_far` of ascending scores, of which the lowest may be left out.

    `highest_m` are the highest of all `impostors` scores: all of them, or at least
    `allowed_errors(far, impostors) + 1`, which decide the threshold.
    """
    allowed = allowed_errors(far, impostors)
    if allowed == 0:
        needed = needed_trials(far)
        return TarAtFar(far, None, f"needs {needed} impostor pairs, the set has {impostors}")
    everything = allowed == impostors
    threshold = -math.inf if everything else float(highest_m[len(highest_m) - 1 - allowed])
    accepted, false_accepts = _above(genuine_g, threshold), _above(highest_m, threshold)
    return TarAtFar(
        far=far,
        tar=accepted / len(genuine_g),
        threshold=_finite(threshold),
        false_accepts=false_accepts,
        far_achieved=false_accepts / impostors,
        accepted=accepted,
        tar_wilson95=wilson(accepted, len(genuine_g)),
        far_wilson95=wilson(false_accepts, impostors),
    )


def allowed_errors(rate: float, trials: int) -> int:
    """Return how many of `trials` a rate allows: k = floor(rate · trials).

    Raises `ValueError` for a rate outside (0, 1].
    """
    if not 0 < rate <= 1:
        raise ValueError(
            f"rate {rate} (FAR or FPIR): expected a number above 0 and at most 1, as 1e-4"
        )
    return min(math.floor(rate * trials * ROUNDING), trials)


def needed_trials(rate: float) -> int:
    """Return the smallest number of trials of which a rate allows one."""
    return math.ceil(1 / (rate * ROUNDING))


def wilson(errors: int, trials: int) -> Interval:
    """Return the Wilson score interval of a proportion, at 95%.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference",
    1927. It holds for independent trials; several pairs per person are not.
    """
    rate, z2 = errors / trials, Z_95 * Z_95
    centre = (rate + z2 / (2 * trials)) / (1 + z2 / trials)
    spread = Z_95 * math.sqrt(rate * (1 - rate) / trials + z2 / (4 * trials * trials))
    spread /= 1 + z2 / trials
    return (
        0.0 if errors == 0 else centre - spread,
        1.0 if errors == trials else centre + spread,
    )


def upper_bound_at_no_errors(trials: int) -> float:
    """Return the 95% upper bound of a rate of which no error was seen: 1 - 0.05^(1/trials)."""
    return -math.expm1(math.log(0.05) / trials)


def warn(message: str) -> None:
    """Issue a `ProtocolWarning` in the name of whoever called the protocol."""
    warnings.warn(message, ProtocolWarning, stacklevel=3)


def _above(ascending: Scores, threshold: float) -> int:
    return len(ascending) - int(np.searchsorted(ascending, threshold, side="right"))


def _finite(threshold: float) -> float | None:
    return None if math.isinf(threshold) else threshold
