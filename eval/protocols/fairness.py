"""How error rates differ among groups of people, at one threshold for all.

Shape legend: p pairs, G groups.

The threshold is that of a false accept rate over **all** impostor pairs, as a deployed system has
one. A group's FNMR is that of its genuine pairs, its FMR that of the impostor pairs with both
people in it. Sources of the summaries: max over min and over the geometric mean, NIST IR 8429
(Grother, 2022); Gini coefficient and GARBE, Howard et al., "Evaluating Proposed Fairness Models for
Face Recognition Algorithms", 2022; fairness discrepancy rate (FDR), de Freitas Pereira and Marcel,
"Fairness in Biometrics", 2021; inequity rate, NIST IR 8280 (Grother, Ngan and Hanaoka, 2019).

A figure that the pairs cannot support is None: a rate of no pairs, a ratio to a rate of zero, and
whatever depends on one. The interval of a rate says what is known of a group without errors.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
from numpy.typing import NDArray

from eval.protocols.rates import Floats, Interval, ScoredPairs, wilson

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class GroupRates:
    """The error rates of one group; None without pairs of that kind."""

    group: str
    genuine: int
    impostor: int  # pairs with both people in the group
    false_accepts: int
    false_rejects: int
    fmr: float | None
    fmr_wilson: Interval | None
    fnmr: float | None
    fnmr_wilson: Interval | None


@dataclass(frozen=True)
class CrossRate:
    """The false match rate of the impostor pairs between two groups, or within one."""

    false_accepts: int
    pairs: int
    fmr: float


@dataclass(frozen=True)
class Spread:
    """How one error rate differs among the groups; all None if a group has no rate."""

    max: float | None = None
    min: float | None = None
    max_over_min: float | None = None
    max_over_geomean: float | None = None
    gini: float | None = None

    @property
    def range(self) -> float | None:
        """The largest difference between two groups."""
        return None if self.max is None or self.min is None else self.max - self.min


@dataclass(frozen=True)
class Summary:
    """The groups in a few numbers; `alpha` weighs FMR against FNMR."""

    fmr: Spread
    fnmr: Spread
    alpha: float
    garbe: float | None  # 0 is fair
    fdr: float | None  # 1 is fair
    inequity: float | None  # 1 is fair


@dataclass(frozen=True)
class Fairness:
    """The error rates of all groups at one threshold."""

    far: float  # over all impostor pairs
    threshold: float | None  # None where every pair is accepted, or with a reason
    reason: str | None  # why there is no figure at this rate
    groups: tuple[GroupRates, ...]  # by name
    fmr_matrix: dict[str, CrossRate]  # by "a|b", names in order; where there are pairs
    summary: Summary | None


def fairness(
    scores_p: Floats,
    same_p: Bools,
    group_a: Sequence[str],  # [p], of the first person of each pair
    group_b: Sequence[str],  # [p], of the second
    far: float,
    *,
    alpha: float = 0.5,
) -> Fairness:
    """Return the error rates of every group at the threshold of one false accept rate.

    Raises `ValueError` for arrays of different lengths, pairs without a group, a genuine pair whose
    person is in two groups, an alpha outside [0, 1], and what `ScoredPairs` refuses.
    """
    first_p, second_p = np.asarray(group_a, dtype=np.str_), np.asarray(group_b, dtype=np.str_)
    _check(scores_p, same_p, first_p, second_p)
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}: expected 0 to 1, the weight of FMR against FNMR")
    point = ScoredPairs(scores_p[same_p], scores_p[~same_p]).tar_at_far(far)
    if point.reason is not None:
        return Fairness(far, None, point.reason, (), {}, None)
    accepted_p = scores_p > (-math.inf if point.threshold is None else point.threshold)
    names = np.unique(np.concatenate([first_p, second_p])).tolist()
    groups = []
    for name in names:
        inside_p = (first_p == name) & (second_p == name)
        groups.append(_group(name, accepted_p[inside_p], same_p[inside_p]))
    matrix = {}
    for a, b in combinations_with_replacement(names, 2):
        between_p = ((first_p == a) & (second_p == b)) | ((first_p == b) & (second_p == a))
        if pairs := int(np.count_nonzero(between_p & ~same_p)):
            errors = int(np.count_nonzero(between_p & ~same_p & accepted_p))
            matrix[f"{a}|{b}"] = CrossRate(errors, pairs, errors / pairs)
    return Fairness(far, point.threshold, None, tuple(groups), matrix, summarise(groups, alpha))


def _check(
    scores_p: Floats, same_p: Bools, first_p: NDArray[np.str_], second_p: NDArray[np.str_]
) -> None:
    lengths = [len(array) for array in (scores_p, same_p, first_p, second_p)]
    if len(set(lengths)) > 1:
        raise ValueError(
            f"{lengths[0]} scores, {lengths[1]} labels, {lengths[2]} and {lengths[3]} groups: "
            "expected one of each per pair"
        )
    if missing := int(np.count_nonzero((first_p == "") | (second_p == ""))):
        raise ValueError(
            f"{missing} of {len(scores_p)} pairs have a person without a group: expected a name; "
            "name the group of those that are unknown, or leave the pairs out"
        )
    two_p = same_p & (first_p != second_p)
    if two_p.any():
        row = int(np.argmax(two_p))
        raise ValueError(
            f"{np.count_nonzero(two_p)} of {np.count_nonzero(same_p)} genuine pairs have their "
            f"person in two groups, pair {row} in {first_p[row]} and {second_p[row]}: expected one "
            "group per person; correct the list of groups"
        )


def _group(name: str, accepted_p: Bools, same_p: Bools) -> GroupRates:
    genuine = int(np.count_nonzero(same_p))
    impostor = len(same_p) - genuine
    false_accepts = int(np.count_nonzero(accepted_p & ~same_p))
    false_rejects = int(np.count_nonzero(~accepted_p & same_p))
    return GroupRates(
        group=name,
        genuine=genuine,
        impostor=impostor,
        false_accepts=false_accepts,
        false_rejects=false_rejects,
        fmr=false_accepts / impostor if impostor else None,
        fmr_wilson=wilson(false_accepts, impostor) if impostor else None,
        fnmr=false_rejects / genuine if genuine else None,
        fnmr_wilson=wilson(false_rejects, genuine) if genuine else None,
    )


def summarise(groups: Sequence[GroupRates], alpha: float) -> Summary:
    """Return the summaries of the groups' rates."""
    fmr, fnmr = spread([one.fmr for one in groups]), spread([one.fnmr for one in groups])
    garbe = fdr = inequity = None
    if fmr.gini is not None and fnmr.gini is not None:
        garbe = alpha * fmr.gini + (1 - alpha) * fnmr.gini
    if fmr.range is not None and fnmr.range is not None:
        fdr = 1 - alpha * fmr.range - (1 - alpha) * fnmr.range
    if fmr.max_over_min is not None and fnmr.max_over_min is not None:
        inequity = fmr.max_over_min**alpha * fnmr.max_over_min ** (1 - alpha)
    return Summary(fmr, fnmr, alpha, garbe, fdr, inequity)


def spread(rates: Sequence[float | None]) -> Spread:
    """Return how a rate differs among groups; all None if one of them has no rate."""
    known = np.array([rate for rate in rates if rate is not None], dtype=np.float64)
    if len(known) < len(rates) or not len(known):
        return Spread()
    highest, lowest = float(known.max()), float(known.min())
    return Spread(
        max=highest,
        min=lowest,
        max_over_min=highest / lowest if lowest > 0 else None,
        max_over_geomean=(
            highest / math.exp(float(np.mean(np.log(known)))) if lowest > 0 else None
        ),
        gini=gini(known),
    )


def gini(rates_G: Floats) -> float | None:
    """Return the Gini coefficient with the correction n / (n - 1): 0 if all are equal, at most 1.

    None of a single group, which has nothing to differ from.
    """
    n, mean = len(rates_G), float(rates_G.mean())
    if n < 2:
        return None
    if mean == 0:
        return 0.0
    differences = float(np.abs(rates_G[:, None] - rates_G).sum())
    return n / (n - 1) * differences / (2 * n * n * mean)
