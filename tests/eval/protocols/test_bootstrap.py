"""Bootstrap intervals against pairs that are repeated as often as their weight says."""

import numpy as np
import pytest

from eval.protocols.bootstrap import (
    BY_PAIR,
    BY_SUBJECT,
    Bootstrap,
    Counts,
    PairSubjects,
    draw_counts,
    pair_subjects,
    percentile_interval,
)
from eval.protocols.rates import ScoredPairs

rng = np.random.default_rng(0)
P, S = 400, 12
SAME = np.arange(P) % 4 == 0
FIRST = rng.integers(0, S, P)
SECOND = np.where(SAME, FIRST, (FIRST + rng.integers(1, S, P)) % S)
SUBJECTS = PairSubjects(FIRST, SECOND, S)
SCORES = np.round(rng.normal(np.where(SAME, 0.5, 0.2), 0.15), 2)  # with ties


def repeated(weights: Counts) -> ScoredPairs:
    """The pairs, each as often as its weight."""
    scores, same = np.repeat(SCORES, weights), np.repeat(SAME, weights)
    return ScoredPairs(scores[same], scores[~same])


@pytest.mark.parametrize("by_subject", [True, False])
def test_a_weight_means_so_many_pairs(by_subject: bool) -> None:
    bootstrap = Bootstrap(SCORES, SAME, SUBJECTS if by_subject else None)
    assert bootstrap.units == (S if by_subject else P)
    draws = list(draw_counts(bootstrap.units, 10, seed=3))
    fars = [1e-6, 0.004, 0.01, 0.1, 1.0]
    tars = bootstrap.tar_at_far(draws, fars)
    fmr, fnmr = bootstrap.error_rates(draws, 0.41)
    for r, draw in enumerate(draws):
        weights = draw
        if by_subject:
            weights = np.where(SAME, draw[FIRST], draw[FIRST] * draw[SECOND])
        pairs = repeated(weights)
        assert [one[r] for one in tars] == [pairs.tar_at_far(far).tar for far in fars]
        expected = pairs.at_threshold(0.41)
        assert (fmr[r], fnmr[r]) == (expected.fmr, expected.fnmr)
    assert set(tars[0]) == {None}


def test_a_replicate_without_pairs_of_a_kind_has_no_value() -> None:
    bootstrap = Bootstrap(SCORES, SAME, SUBJECTS)
    alone = np.eye(S, dtype=np.int64)[0]  # no impostor pair has one person
    nobody = np.zeros(S, dtype=np.int64)
    assert bootstrap.tar_at_far([alone, nobody], [0.1, 1.0]) == [[None, None], [None, None]]
    fmr, fnmr = bootstrap.error_rates([alone, nobody], 0.0)
    assert fmr == [None, None]
    assert fnmr[0] is not None
    assert fnmr[1] is None


def test_draws_depend_on_seed_and_number_alone() -> None:
    five, three = list(draw_counts(20, 5, seed=1)), list(draw_counts(20, 3, seed=1))
    assert all((one == other).all() for one, other in zip(five, three, strict=False))
    assert all(one.sum() == 20 for one in five)
    assert (five[0] != five[1]).any()
    assert (five[0] != next(draw_counts(20, 1, seed=2))).any()


def test_the_interval_by_subject_is_wider_and_the_other_says_that_it_is_too_narrow() -> None:
    pair = np.arange(4000)
    first = pair % 20
    same = pair // 20 % 2 == 0
    second = np.where(same, first, (first + 1 + pair // 40 % 19) % 20)
    rng = np.random.default_rng(1)
    levels = rng.normal(0, 0.2, 20)  # some people are harder than others
    scores = np.where(same, 0.5, 0.1) + levels[first] + rng.normal(0, 0.1, 4000)
    subjects = PairSubjects(first, second, 20)
    (wide,) = Bootstrap(scores, same, subjects).tar_intervals([0.01], 100)
    (narrow,) = Bootstrap(scores, same).tar_intervals([0.01], 100)
    assert (wide.method, narrow.method) == (BY_SUBJECT, BY_PAIR)
    assert "too narrow" in narrow.method
    assert wide.interval95 is not None
    assert narrow.interval95 is not None
    assert np.ptp(wide.interval95) > 2 * np.ptp(narrow.interval95)


def test_replicates_without_a_value_are_left_out_below_five_per_cent() -> None:
    values: list[float | None] = [k / 100 for k in range(96)]
    found = percentile_interval([*values, None, None, None, None])
    assert found == pytest.approx((0.02375, 0.92625))
    assert percentile_interval([*values[:95], *[None] * 5]) is None
    none = Bootstrap(SCORES, SAME).interval([0.5] * 9 + [None])
    assert (none.left_out, none.replicates, none.interval95) == (1, 10, None)
    assert none.reason is not None
    assert "1 of 10" in none.reason


def test_labels_that_contradict_the_subjects_are_refused() -> None:
    same = SAME.copy()
    same[:3] = ~same[:3]
    with pytest.raises(ValueError, match=f"3 of {P}"):
        Bootstrap(SCORES, same, SUBJECTS)


def test_subjects_are_found_by_id_in_any_order() -> None:
    found = pair_subjects(np.array([9, 3, 5]), np.array([3, 9]), np.array([5, 5]))
    assert found.second_p is not None
    assert (found.first_p.tolist(), found.second_p.tolist(), found.count) == ([1, 0], [2, 2], 3)
    with pytest.raises(ValueError, match=r"1 .*3: 4;"):
        pair_subjects(np.array([9, 3, 5]), np.array([3, 4]), np.array([5, 5]))


def test_a_draw_of_other_units_is_refused() -> None:
    with pytest.raises(ValueError, match=rf"{P}\b.* {S}, by subject"):
        Bootstrap(SCORES, SAME, SUBJECTS).tar_at_far(draw_counts(P, 1, 0), [0.1])
