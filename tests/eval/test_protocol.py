import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.model_selection import KFold

from eval.protocol import (
    THRESHOLD_COUNT,
    THRESHOLD_STEP,
    Bools,
    Floats,
    fold_indices,
    squared_distances,
    tar_at_far,
    ten_fold,
    unit,
)

GOLDEN = json.loads(
    (Path(__file__).parents[1] / "fixtures" / "golden" / "verification_expected.json").read_text()
)


@pytest.mark.parametrize("case", GOLDEN)
def test_accuracies_equal_those_of_the_published_code_exactly(case: str) -> None:
    expected = GOLDEN[case]
    count, size, noise = expected["n"], expected["dim"], expected["noise"]
    rng = np.random.default_rng(expected["seed"])
    centres = rng.standard_normal((count, size))
    first = centres + noise * rng.standard_normal((count, size))
    same = (np.arange(count) // (count // 20)) % 2 == 0
    other = rng.standard_normal((count, size))
    second = np.where(same[:, None], centres, other) + noise * rng.standard_normal((count, size))
    scores = ten_fold(squared_distances(unit(first), unit(second)), same)
    assert list(scores.accuracy) == expected["fold_accuracy"]
    assert scores.mean == expected["accuracy_mean"]
    assert scores.std == expected["accuracy_std"]


def _ten_fold_in_loops(distances: Floats, same: Bools) -> tuple[list[float], list[float]]:
    """The protocol as papers describe it: a loop over folds and thresholds."""
    thresholds = np.arange(0, 4, 0.01)
    accuracies, chosen = [], []
    for train, test in KFold(n_splits=10, shuffle=False).split(distances):
        trained = [np.mean((distances[train] < value) == same[train]) for value in thresholds]
        best = thresholds[int(np.argmax(trained))]
        accuracies.append(float(np.mean((distances[test] < best) == same[test])))
        chosen.append(float(best))
    return accuracies, chosen


@pytest.mark.parametrize("count", [10, 11, 19, 57, 400])
@pytest.mark.parametrize("grid", [False, True])
def test_every_set_gets_the_result_of_the_loops(count: int, grid: bool) -> None:
    rng = np.random.default_rng(count)
    same = rng.random(count) < 0.5
    distances = np.clip(rng.normal(np.where(same, 1.0, 1.5), 0.4), 0, 4.5)
    if grid:  # distances equal to thresholds: `distance < threshold` is strict
        distances = np.round(distances * 100) * THRESHOLD_STEP
    scores = ten_fold(distances, same)
    accuracies, thresholds = _ten_fold_in_loops(distances, same)
    assert list(scores.accuracy) == accuracies
    assert list(scores.threshold) == thresholds
    assert scores.mean_threshold == np.mean(thresholds)


def test_the_thresholds_are_the_published_ones() -> None:
    ours = np.arange(THRESHOLD_COUNT) * THRESHOLD_STEP
    assert (ours == np.arange(0, 4, 0.01)).all()


def test_the_folds_are_in_file_order_and_the_first_are_larger() -> None:
    folds = fold_indices(37)
    assert [len(fold) for fold in folds] == [4] * 7 + [3] * 3
    assert np.concatenate(folds).tolist() == list(range(37))


def test_identical_distances_give_the_fraction_of_one_kind() -> None:
    same = np.arange(40) % 2 == 0
    assert ten_fold(np.zeros(40), same).mean == 0.5


@pytest.mark.parametrize(
    ("distances", "same", "values"),
    [
        (np.zeros(9), np.ones(9, bool), "^9 .* 9 .* 10"),
        (np.zeros(12), np.ones(11, bool), "^12 .* 11 "),
        (np.array([np.nan] * 3 + [1.0] * 9), np.ones(12, bool), "^3 of 12 "),
    ],
)
def test_invalid_distances_are_refused(distances: Floats, same: Bools, values: str) -> None:
    with pytest.raises(ValueError, match=values):
        ten_fold(distances, same)


def test_unit_rows() -> None:
    rows = unit(np.array([[3.0, 4.0], [0.0, 0.0]]))
    assert rows.tolist() == [[0.6, 0.8], [0.0, 0.0]]


@pytest.mark.parametrize("decimals", [1, 2, 9])  # with many ties, some, none
def test_tar_at_far_is_the_highest_that_the_rate_allows(decimals: int) -> None:
    rng = np.random.default_rng(0)
    same = np.arange(3000) % 3 == 0
    distances = np.round(rng.normal(np.where(same, 1.0, 1.6), 0.3), decimals)
    rates = np.array([1e-2, 1e-3, 0.3, 1.0])
    for rate, tar in zip(rates, tar_at_far(distances, same, rates), strict=True):
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
    assert tar_at_far(distances, same, rates).tolist() == [0.0, 1.0]


def test_points_on_a_straight_line_count() -> None:
    same = np.arange(20) % 2 == 0
    rates = np.array([k / 10 for k in range(1, 11)])
    assert tar_at_far(np.repeat(np.arange(10.0), 2), same, rates).tolist() == rates.tolist()


def test_tar_at_far_needs_enough_negative_pairs() -> None:
    for negatives, supported in [(999, False), (1000, True), (3000, True)]:
        same = np.arange(negatives + 5) < 5
        (rate,) = tar_at_far(np.where(same, 0.5, 1.5), same, np.array([1e-3]))
        assert rate == 1.0 if supported else np.isnan(rate)
    for same, found in ((np.zeros(10, bool), "0 genuine and 10"), (np.ones(10, bool), "10 .* 0 ")):
        with pytest.raises(ValueError, match=found):
            tar_at_far(np.ones(10), same, np.array([1e-2]))
