import numpy as np

from data.cleaning.calibrate import choose_cut


def test_the_estimates_are_those_of_the_truth() -> None:
    random = np.random.default_rng(0)
    clean, faults = random.normal(0, 1, 50_000), random.normal(4, 1, 1_000)
    cut = choose_cut(np.concatenate([clean, faults]), random.normal(4, 1, 5_000), 0.95)
    assert cut is not None
    assert cut.recall is not None
    assert cut.faults is not None
    true = (faults >= cut.threshold).sum() / cut.found
    # Of some 1,000 findings the standard deviation of a rate of 0.95 is 0.007.
    assert abs(true - 0.95) < 0.03
    assert abs((faults >= cut.threshold).mean() - cut.recall) < 0.03
    assert abs(cut.faults - 1_000) < 150


def test_without_planted_scores_there_is_no_threshold() -> None:
    assert choose_cut(np.arange(5.0), np.empty(0), 0.95) is None
    assert choose_cut(np.arange(5.0), np.full(9, -np.inf), 0.95) is None


def test_a_stated_threshold_is_taken() -> None:
    cut = choose_cut(np.arange(10.0), np.arange(5.0, 15.0), 0.95, threshold=7.0)
    assert cut is not None
    assert (cut.threshold, cut.found) == (7.0, 3)


def test_a_stated_threshold_is_taken_where_nothing_could_be_planted() -> None:
    cut = choose_cut(np.arange(10.0), np.empty(0), 0.95, threshold=7.0)
    assert cut is not None
    assert (cut.threshold, cut.found, cut.precision, cut.recall) == (7.0, 3, None, None)
