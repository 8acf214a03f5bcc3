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
