import math

import numpy as np
import pytest

from data.order import SampleOrder


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 16, 97, 1000, 65537, 100_003])
def test_every_epoch_is_a_permutation(count: int) -> None:
    indices, epochs = SampleOrder(count, seed=3).order(0, 3 * count)
    assert indices.dtype == np.int64
    assert epochs.dtype == np.int64
    assert (epochs == np.repeat(np.arange(3), count)).all()
    for epoch in indices.reshape(3, count):
        assert (np.sort(epoch) == np.arange(count)).all()


def test_seventeen_million_samples_are_each_visited_once() -> None:
    count, step = 17_000_000, 1 << 16
    order = SampleOrder(count, seed=1)
    seen = np.zeros(count, dtype=bool)
    for start in range(0, count, step):
        seen[order.order(start, min(start + step, count))[0]] = True
    assert seen.all()


def test_any_part_of_the_stream_is_the_same_from_anywhere() -> None:
    order = SampleOrder(53, seed=9)
    whole, epochs = order.order(0, 400)
    for start, stop in [(0, 1), (52, 54), (53, 106), (17, 333), (399, 400)]:
        part, part_epochs = order.order(start, stop)
        assert (part == whole[start:stop]).all()
        assert (part_epochs == epochs[start:stop]).all()
    far, far_epochs = order.order(53 * 10**12 + 5, 53 * 10**12 + 60)
    assert set(far_epochs) == {10**12, 10**12 + 1}
    assert far.max() < 53


def test_an_empty_request_is_empty() -> None:
    indices, epochs = SampleOrder(10, seed=0).order(25, 25)
    assert indices.shape == epochs.shape == (0,)


def test_the_stream_is_frozen() -> None:
    # A change of these numbers changes what every resumed run would see.
    small = SampleOrder(10, seed=0).order(0, 20)[0]
    assert small.tolist() == [5, 9, 3, 7, 2, 4, 0, 8, 6, 1, 4, 7, 8, 9, 6, 1, 5, 0, 3, 2]
    large = SampleOrder(17_091_657, seed=2**64 - 1).order(10**9, 10**9 + 3)[0]
    assert large.tolist() == [1885729, 5569728, 8940557]


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_all_orders_of_a_tiny_set_are_equally_frequent(count: int) -> None:
    epochs, kinds = 20_000, math.factorial(count)
    orders = SampleOrder(count, seed=5).order(0, epochs * count)[0].reshape(epochs, count)
    codes = orders @ (count ** np.arange(count))
    frequencies = np.unique(codes, return_counts=True)[1]
    assert len(frequencies) == kinds
    assert _chi_square_sigmas(frequencies) < 4


def test_a_sample_lands_anywhere() -> None:
    count, epochs = 101, 5000
    orders = SampleOrder(count, seed=7).order(0, epochs * count)[0].reshape(epochs, count)
    for sample in (0, 1, 50, 100):
        positions = np.nonzero(orders == sample)[1]
        assert _chi_square_sigmas(np.bincount(positions, minlength=count)) < 4


@pytest.mark.parametrize("seeds", [(0, 0), (0, 1), (1 << 63, 1 << 62)])
def test_neighbours_epochs_and_seeds_are_unrelated(seeds: tuple[int, int]) -> None:
    # A random permutation's correlations are normal with deviation 1/sqrt(n); 4 of them here.
    count, bound = 40_000, 4 / math.sqrt(40_000)
    first = SampleOrder(count, seeds[0]).order(0, count)[0]
    second = SampleOrder(count, seeds[1]).order(count, 2 * count)[0]
    for left, right in [
        (first[1:], first[:-1]),
        (first[256:], first[:-256]),
        (first, np.arange(count)),
        (first, second),
    ]:
        assert abs(np.corrcoef(left, right)[0, 1]) < bound
    # Runs of following indices (i, i+1) would keep an identity's images in one batch.
    assert np.count_nonzero(np.diff(first) == 1) < 10


@pytest.mark.parametrize(
    ("count", "seed", "message"),
    [(0, 0, "num_samples is 0"), (5, -1, "seed is -1"), (5, 2**64, "expected 0 <= seed < 2")],
)
def test_wrong_arguments_are_refused(count: int, seed: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SampleOrder(count, seed)


def test_wrong_ranges_are_refused() -> None:
    with pytest.raises(ValueError, match=r"positions \[5, 4\)"):
        SampleOrder(5, 0).order(5, 4)
    with pytest.raises(ValueError, match=r"positions \[-1, 4\)"):
        SampleOrder(5, 0).order(-1, 4)


def _chi_square_sigmas(observed: np.ndarray) -> float:
    """How many deviations the chi-square of equal frequencies lies above its mean."""
    expected = observed.sum() / len(observed)
    chi_square = ((observed - expected) ** 2 / expected).sum()
    freedom = len(observed) - 1
    return float((chi_square - freedom) / math.sqrt(2 * freedom))
