import pytest

from scripts.comparison.seeds import Summary, difference, summarise


def test_the_deviation_is_that_of_a_sample() -> None:
    # Squared distances from 5: 9, 1, 1, 9; their sum over 4 - 1 is 20 / 3.
    found = summarise([2.0, 4.0, 6.0, 8.0])
    assert found is not None
    assert found.mean == 5.0
    assert found.deviation == pytest.approx((20 / 3) ** 0.5)


def test_one_seed_has_no_deviation_and_a_missing_figure_no_summary() -> None:
    assert summarise([3.0]) == Summary(3.0, None)
    assert summarise([3.0, None]) is None
    assert summarise([]) is None


def test_a_difference_is_paired_by_seed() -> None:
    # 1, 2 and 3 over the seeds that both have, in spite of another order and of wide spreads.
    found = difference({7: 53.0, 0: 11.0, 1: 92.0, 9: 0.0}, {0: 10.0, 1: 90.0, 7: 50.0, 8: 0.0})
    assert found is not None
    assert found.seeds == [0, 1, 7]
    assert found.mean == 2.0
    assert found.standard_error == pytest.approx(1 / 3**0.5)


@pytest.mark.parametrize("seeds", [[], [0], [0, 5, 6]])
def test_a_difference_needs_two_common_seeds(seeds: list[int]) -> None:
    assert difference(dict.fromkeys(seeds, 1.0), {0: 1.0, 1: 2.0}) is None
