import pytest

from scripts.benchmarks.common.turns import median_ratio, take_turns

pytestmark = pytest.mark.slow


def test_every_item_is_measured_once_per_round() -> None:
    order: list[tuple[str, int]] = []

    def measure(item: str, number: int) -> int:
        order.append((item, number))
        return len(order)

    assert take_turns(["a", "b"], measure, rounds=3) == [[1, 3, 5], [2, 4, 6]]
    assert order == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    with pytest.raises(ValueError, match=r"rounds: 0\b"):
        take_turns(["a"], measure, rounds=0)


def test_a_ratio_is_of_the_same_round() -> None:
    # The machine is 10 times as slow in the second round, and 4 times in the third.
    assert median_ratio([2.0, 20.0, 12.0], [1.0, 10.0, 4.0]) == 2.0
