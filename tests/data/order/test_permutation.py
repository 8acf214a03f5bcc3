import math

import numpy as np
import pytest

from data.order.permutation import make_keys, permute


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 16, 17, 97, 1000, 65536, 65537, 100_003])
def test_it_is_a_bijection(count: int) -> None:
    values = permute(np.arange(count), make_keys(3, 8), count)
    assert values.dtype == np.int64
    assert (np.sort(values) == np.arange(count)).all()


def test_each_value_may_have_its_own_key_and_count() -> None:
    counts = np.repeat(np.arange(1, 90), np.arange(1, 90))
    values = np.concatenate([np.arange(count) for count in range(1, 90)])
    keys = make_keys(5, counts)
    together = permute(values, keys, counts)
    for count in range(1, 90):
        alone = permute(np.arange(count), make_keys(5, count), count)
        assert (together[counts == count] == alone).all()


def test_it_is_frozen() -> None:
    # A change of these numbers changes what every resumed run would see.
    assert permute(np.arange(10), make_keys(0, 0), 10).tolist() == [5, 9, 3, 7, 2, 4, 0, 8, 6, 1]
    far = permute(np.array([0, 17_091_656]), make_keys(2**64 - 1, 9, 4), 17_091_657)
    assert far.tolist() == [491945, 5354515]


def test_different_numbers_have_different_keys() -> None:
    epochs = np.arange(1000)
    keys = [
        make_keys(7),
        *(make_keys(seed, epochs) for seed in (0, 1, 2**64 - 1)),
        *(make_keys(0, purpose, epochs) for purpose in (1, 2)),
        make_keys(0, epochs, np.full(1000, 2000)),
    ]
    assert len(np.unique(np.concatenate(keys))) == sum(len(part) for part in keys)
    assert make_keys(0, 4, epochs)[17] == make_keys(0, 4, 17)[0]


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_all_orders_of_a_tiny_set_are_equally_frequent(count: int) -> None:
    rows, kinds = 20_000, math.factorial(count)
    values = np.tile(np.arange(count), rows)
    orders = permute(values, make_keys(5, np.repeat(np.arange(rows), count)), count)
    codes = orders.reshape(rows, count) @ (count ** np.arange(count))
    frequencies = np.unique(codes, return_counts=True)[1]
    assert len(frequencies) == kinds
    assert chi_square_sigmas(frequencies) < 4


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_an_invalid_seed_is_refused(seed: int) -> None:
    with pytest.raises(ValueError, match=f"seed is {seed}:"):
        make_keys(seed)


def chi_square_sigmas(observed: np.ndarray) -> float:
    """How many standard deviations the chi-square of equal frequencies is above its mean."""
    expected = observed.sum() / len(observed)
    chi_square = ((observed - expected) ** 2 / expected).sum()
    freedom = len(observed) - 1
    return float((chi_square - freedom) / math.sqrt(2 * freedom))
