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
    fold_ranges,
    roc_curve,
    squared_distances,
    tar_at_far,
    ten_fold,
    unit,
)

GOLDEN = json.loads(
    (Path(__file__).parents[1] / "fixtures" / "golden" / "verification_expected.json").read_text()
)


@pytest.mark.parametrize("case", GOLDEN)
def test_accuracies_equal_the_published_code_s_exactly(case: str) -> None:
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


def _plainly(distances: Floats, same: Bools) -> tuple[list[float], list[float]]:
    """The protocol as it is told: a loop over folds and thresholds."""
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
def test_any_set_gets_what_the_plain_loop_gives(count: int, grid: bool) -> None:
    rng = np.random.default_rng(count)
    same = rng.random(count) < 0.5
    distances = np.clip(rng.normal(np.where(same, 1.0, 1.5), 0.4), 0, 4.5)
    if grid:  # distances on the very thresholds: `distance < threshold` is strict
        distances = np.round(distances * 100) * THRESHOLD_STEP
    scores = ten_fold(distances, same)
    accuracies, thresholds = _plainly(distances, same)
    assert list(scores.accuracy) == accuracies
    assert list(scores.threshold) == thresholds
    assert scores.mean_threshold == np.mean(thresholds)


def test_the_thresholds_are_the_published_ones() -> None:
    ours = np.arange(THRESHOLD_COUNT) * THRESHOLD_STEP
    assert (ours == np.arange(0, 4, 0.01)).all()


def test_the_folds_are_unshuffled() -> None:
    ranges = [(int(test[0]), int(test[-1]) + 1) for _, test in KFold(10).split(np.zeros(37))]
    assert fold_ranges(37) == ranges


def test_identical_distances_give_the_share_of_one_kind() -> None:
    same = np.arange(40) % 2 == 0
    assert ten_fold(np.zeros(40), same).mean == 0.5


@pytest.mark.parametrize(
    ("distances", "same", "message"),
    [
        (np.zeros(9), np.ones(9, bool), "9 distances and 9 pair labels: .* at least 10"),
        (np.zeros(12), np.ones(11, bool), "12 distances and 11"),
        (np.array([np.nan] * 3 + [1.0] * 9), np.ones(12, bool), "3 of 12 distances"),
    ],
)
def test_what_cannot_be_judged_is_refused(distances: Floats, same: Bools, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ten_fold(distances, same)


def test_unit_rows() -> None:
    rows = unit(np.array([[3.0, 4.0], [0.0, 0.0]]))
    assert rows.tolist() == [[0.6, 0.8], [0.0, 0.0]]


def test_tar_at_far_is_the_best_that_the_rate_allows() -> None:
    rng = np.random.default_rng(0)
    same = np.arange(3000) % 3 == 0
    distances = np.round(rng.normal(np.where(same, 1.0, 1.6), 0.3), 2)  # many ties
    for rate in (1e-2, 1e-3, 0.3, 1.0):
        allowed = [
            float(np.mean(distances[same] < limit))
            for limit in [*np.unique(distances), np.inf]
            if np.mean(distances[~same] < limit) <= rate + 1e-12
        ]
        assert tar_at_far(distances, same, rate) == max(allowed)


def test_a_rate_that_is_a_whole_number_of_pairs_allows_that_many() -> None:
    assert 0.29 * 100 < 29  # in floating point
    same = np.arange(101) == 100
    distances = np.append(np.arange(100.0), 28.5)
    assert tar_at_far(distances, same, 0.29) == 1.0


def test_tar_at_far_needs_enough_negative_pairs() -> None:
    for negatives, supported in [(999, False), (1000, True), (3000, True)]:
        same = np.arange(negatives + 5) < 5
        rate = tar_at_far(np.where(same, 0.5, 1.5), same, 1e-3)
        assert rate == (1.0 if supported else None)
    with pytest.raises(ValueError, match="no positive pairs"):
        tar_at_far(np.ones(10), np.zeros(10, bool), 1e-2)


def test_the_curve_rises_from_one_false_accept_to_all() -> None:
    rng = np.random.default_rng(1)
    same = np.arange(1200) % 2 == 0
    distances = rng.normal(np.where(same, 1.0, 1.4), 0.3)
    curve = roc_curve(distances, same, points=20)
    assert len(curve.far) == len(curve.tar) == 20
    assert curve.far[0] == pytest.approx(1 / 600)
    assert curve.far[-1] == curve.tar[-1] == 1
    assert (np.diff(curve.tar) >= 0).all()
    middle = tar_at_far(distances, same, float(curve.far[7]))
    assert curve.tar[7] == middle
    with pytest.raises(ValueError, match="no negative pairs"):
        roc_curve(np.ones(10), np.ones(10, bool))
