"""Rates on scored pairs: against scikit-learn, against brute force, and their refusals."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from eval.protocols import rates
from eval.protocols.rates import (
    Floats,
    ProtocolWarning,
    ScoredPairs,
    allowed_errors,
    needed_trials,
    tar_at_far,
    upper_bound_at_no_errors,
    wilson,
)


def draw(decimals: int, seed: int = 0, genuine: int = 90, impostor: int = 700) -> list[Floats]:
    rng = np.random.default_rng(seed)
    return [
        np.round(rng.normal(mean, 0.15, size), decimals)
        for mean, size in ((0.5, genuine), (0.2, impostor))
    ]


@pytest.mark.parametrize("decimals", [1, 2, 9])  # with many ties, some, none
@pytest.mark.parametrize("seed", range(4))
def test_the_published_reading_is_scikit_learns(
    decimals: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rates, "POINT_CHUNK", [1, 2, 50, 10**6][seed])
    from sklearn.metrics import roc_auc_score, roc_curve

    genuine, impostor = draw(decimals, seed)
    same = np.arange(len(genuine) + len(impostor)) < len(genuine)
    scores = np.concatenate([genuine, impostor])
    fpr, tpr, _ = roc_curve(same, scores)
    pairs = ScoredPairs(genuine, impostor)
    found_fpr, found_tpr = pairs.published_points()
    assert found_fpr.tolist() == fpr.tolist()
    assert found_tpr.tolist() == tpr.tolist()
    assert pairs.auc() == pytest.approx(roc_auc_score(same, scores), abs=1e-12)
    for far in (1e-4, 1e-2, 0.05, 0.1, 1.0):
        (point,) = pairs.published_tpr_at_fpr([far])
        distances = np.abs(fpr - far)
        best = max(
            (f, t) for f, t, d in zip(fpr, tpr, distances, strict=True) if d == min(distances)
        )
        assert (point.fpr_of_point, point.tpr) == best


def test_equally_near_points_give_the_larger_rates() -> None:
    pairs = ScoredPairs(np.array([0.9, 0.5, 0.3]), np.array([0.8, 0.4, 0.2, 0.1]))
    (point,) = pairs.published_tpr_at_fpr([0.125])  # between 0 and 0.25
    assert (point.fpr_of_point, point.tpr) == (0.25, 2 / 3)


@pytest.mark.parametrize("decimals", [1, 2, 9])
@pytest.mark.parametrize("seed", range(4))
def test_the_eer_is_that_of_a_search_over_all_thresholds(decimals: int, seed: int) -> None:
    genuine, impostor = draw(decimals, seed)
    thresholds = [-math.inf, *np.unique(np.concatenate([genuine, impostor]))]
    rates = [(np.mean(impostor > t), np.mean(genuine <= t)) for t in thresholds]
    first = next(i for i, (fmr, fnmr) in enumerate(rates) if fmr <= fnmr)
    chosen = first
    if rates[first][0] != rates[first][1] and sum(rates[first - 1]) <= sum(rates[first]):
        chosen = first - 1
    found = ScoredPairs(genuine, impostor).eer()
    assert [found.low, found.high] == sorted(rates[chosen])
    assert found.threshold == thresholds[chosen]
    assert found.eer == sum(rates[chosen]) / 2


def test_a_rate_of_one_accepts_all() -> None:
    point = tar_at_far(np.array([0.1]), np.array([0.5, 0.6]), 1.0)
    assert (point.tar, point.threshold, point.false_accepts) == (1.0, None, 2)


def test_too_few_pairs_give_a_reason_and_no_number() -> None:
    point = tar_at_far(np.array([0.9]), np.zeros(999), 1e-3)
    assert point.tar is None
    assert point.threshold is None
    assert point.reason == "needs 1000 impostor pairs, the set has 999"
    assert tar_at_far(np.array([0.9]), np.zeros(1000), 1e-3).tar == 1.0


@pytest.mark.parametrize("exponent", range(1, 10))
def test_the_needed_number_is_the_smallest_that_allows_an_error(exponent: int) -> None:
    for rate in (10.0**-exponent, 3 * 10.0**-exponent):
        needed = needed_trials(rate)
        assert allowed_errors(rate, needed) == 1
        assert allowed_errors(rate, max(needed - 1 - needed // 10**8, 0)) == 0


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.5, math.nan])
def test_rates_outside_their_range_are_refused(rate: float) -> None:
    with pytest.raises(ValueError, match=str(rate)):
        tar_at_far(np.ones(2), np.zeros(2), rate)


def test_a_threshold_of_another_set_is_judged_as_it_is() -> None:
    found = ScoredPairs(np.array([0.5, 0.6, 0.7]), np.array([0.5, 0.6])).at_threshold(0.5)
    assert (found.fmr, found.fnmr) == (1 / 2, 1 / 3)
    assert (found.false_accepts, found.false_rejects) == (1, 1)
    assert found.fmr_wilson95 == wilson(1, 2)


def test_intervals_contain_the_rate_and_reach_the_ends() -> None:
    assert wilson(0, 50)[0] == 0.0
    assert wilson(50, 50)[1] == 1.0
    low, high = wilson(7, 50)
    assert 0 < low < 7 / 50 < high < 1
    assert upper_bound_at_no_errors(59) == pytest.approx(1 - 0.05 ** (1 / 59), abs=1e-15)


def test_collapsed_and_inverted_scores_are_warned_of() -> None:
    with pytest.warns(ProtocolWarning, match=r"\b5 .*0\.25"):
        ScoredPairs(np.full(2, 0.25), np.full(3, 0.25)).rates([0.5])
    with pytest.warns(ProtocolWarning, match=r"0\.0000"):
        ScoredPairs(np.array([0.1]), np.array([0.5, 0.6])).rates([0.5])


def tars_of(
    distances: NDArray[np.float64], same: NDArray[np.bool_], rates: NDArray[np.float64]
) -> NDArray[np.float64]:
    """TAR of distances at each rate; NaN where there is none."""
    pairs = ScoredPairs(-distances[same], -distances[~same])
    tars = [pairs.tar_at_far(far).tar for far in rates.tolist()]
    return np.array([np.nan if tar is None else tar for tar in tars])


@pytest.mark.parametrize("decimals", [1, 2, 9])  # with many ties, some, none
def test_tar_at_far_is_the_highest_that_the_rate_allows(decimals: int) -> None:
    rng = np.random.default_rng(0)
    same = np.arange(3000) % 3 == 0
    distances = np.round(rng.normal(np.where(same, 1.0, 1.6), 0.3), decimals)
    rates = np.array([1e-2, 1e-3, 0.3, 1.0])
    for rate, tar in zip(rates, tars_of(distances, same, rates), strict=True):
        allowed = [
            float(np.mean(distances[same] < limit))
            for limit in [*np.unique(distances), np.inf]
            if np.mean(distances[~same] < limit) <= rate + 1e-12
        ]
        assert tar == max(allowed)


@pytest.mark.parametrize("allowed", [7, 29])
def test_a_rate_that_is_a_whole_number_of_pairs_allows_that_many(allowed: int) -> None:
    assert 0.29 * 100 < 29  # in floating point
    assert 0.07 * 100 > 7
    same = np.arange(101) == 100
    distances = np.append(np.arange(100.0), allowed - 0.5)
    rates = np.array([(allowed - 1) / 100, allowed / 100])
    assert tars_of(distances, same, rates).tolist() == [0.0, 1.0]


def test_points_on_a_straight_line_count() -> None:
    same = np.arange(20) % 2 == 0
    rates = np.array([k / 10 for k in range(1, 11)])
    assert tars_of(np.repeat(np.arange(10.0), 2), same, rates).tolist() == rates.tolist()


def test_tar_at_far_needs_enough_negative_pairs() -> None:
    for negatives, supported in [(999, False), (1000, True), (3000, True)]:
        same = np.arange(negatives + 5) < 5
        (rate,) = tars_of(np.where(same, 0.5, 1.5), same, np.array([1e-3]))
        assert rate == 1.0 if supported else np.isnan(rate)
    for same, found in ((np.zeros(10, bool), "0 genuine and 10"), (np.ones(10, bool), "10 .* 0 ")):
        with pytest.raises(ValueError, match=found):
            tars_of(np.ones(10), same, np.array([1e-2]))
