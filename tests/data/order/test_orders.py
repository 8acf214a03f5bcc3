import math
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from data.order.orders import BlockOrder, FileOrder, GlobalOrder, SampleOrder
from tests.data.order.test_permutation import chi_square_sigmas

# Blocks of 8, three mixed at a time.
ORDERS: dict[str, Callable[[int, int], SampleOrder]] = {
    "global": GlobalOrder,
    "blocks": lambda count, seed: BlockOrder(count, seed, block_records=8, mixing_blocks=3),
    "none": lambda count, seed: FileOrder(count),
}
COUNTS = [1, 2, 3, 7, 8, 9, 16, 24, 25, 97, 1000, 65537]


@pytest.fixture(params=ORDERS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("count", COUNTS)
def test_every_epoch_has_every_sample_once(kind: str, count: int) -> None:
    indices, epochs = ORDERS[kind](count, 3).order(0, 3 * count)
    assert indices.dtype == np.int64
    assert epochs.dtype == np.int64
    assert (epochs == np.repeat(np.arange(3), count)).all()
    for epoch in indices.reshape(3, count):
        assert (np.sort(epoch) == np.arange(count)).all()


@pytest.mark.parametrize("block", [1, 2, 10, 99, 100, 101, 5000])
@pytest.mark.parametrize("mixing", [1, 2, 7, 1000])
def test_blocks_of_any_size_lose_no_sample(block: int, mixing: int) -> None:
    order = BlockOrder(100, 3, block_records=block, mixing_blocks=mixing)
    for epoch in order.order(0, 300)[0].reshape(3, 100):
        assert (np.sort(epoch) == np.arange(100)).all()


def test_a_million_samples_are_each_visited_once() -> None:
    count, step = 1_000_003, 1 << 16
    order = GlobalOrder(count, seed=1)
    seen = np.zeros(count, dtype=bool)
    for start in range(0, count, step):
        seen[order.order(start, min(start + step, count))[0]] = True
    assert seen.all()


def test_any_part_of_the_stream_is_the_same_from_anywhere(kind: str) -> None:
    order = ORDERS[kind](53, 9)
    whole, epochs = order.order(0, 400)
    for start, stop in [(0, 1), (52, 54), (53, 106), (17, 333), (399, 400)]:
        part, part_epochs = order.order(start, stop)
        assert (part == whole[start:stop]).all()
        assert (part_epochs == epochs[start:stop]).all()
    far, far_epochs = order.order(53 * 10**12 + 5, 53 * 10**12 + 60)
    assert set(far_epochs) == {10**12, 10**12 + 1}
    assert far.max() < 53


def test_an_empty_request_is_empty(kind: str) -> None:
    indices, epochs = ORDERS[kind](10, 0).order(25, 25)
    assert indices.shape == epochs.shape == (0,)


def test_a_batch_of_seventeen_million_samples_needs_the_memory_of_a_batch(kind: str) -> None:
    order = ORDERS[kind](17_000_000, 1)
    tracemalloc.start()
    try:
        order.order(10**10, 10**10 + 512)
        assert tracemalloc.get_traced_memory()[1] < 200_000
    finally:
        tracemalloc.stop()


def test_the_streams_are_frozen() -> None:
    # A change of these numbers changes what every resumed run would see.
    small = GlobalOrder(10, seed=0).order(0, 20)[0]
    assert small.tolist() == [5, 9, 3, 7, 2, 4, 0, 8, 6, 1, 4, 7, 8, 9, 6, 1, 5, 0, 3, 2]
    large = GlobalOrder(17_091_657, seed=2**64 - 1).order(10**9, 10**9 + 3)[0]
    assert large.tolist() == [1885729, 5569728, 8940557]
    blocks = BlockOrder(11, seed=0, block_records=2, mixing_blocks=2).order(0, 22)[0]
    assert blocks.tolist() == [
        *[8, 9, 6, 7, 4, 10, 0, 5, 1, 3, 2],
        *[10, 0, 1, 2, 5, 4, 3, 6, 9, 7, 8],
    ]


@pytest.mark.parametrize("kind", ["global", "blocks"])
def test_a_sample_lands_anywhere(kind: str) -> None:
    count, epochs = 101, 5000
    orders = ORDERS[kind](count, 7).order(0, epochs * count)[0].reshape(epochs, count)
    for sample in (0, 1, 50, 100):
        positions = np.nonzero(orders == sample)[1]
        assert chi_square_sigmas(np.bincount(positions, minlength=count)) < 4


@pytest.mark.parametrize("seeds", [(0, 0), (0, 1), (1 << 63, 1 << 62)])
def test_neighbours_epochs_and_seeds_are_not_correlated(seeds: tuple[int, int]) -> None:
    # A random permutation's correlations are normal with deviation 1/sqrt(n); 4 of them here.
    count, bound = 40_000, 4 / math.sqrt(40_000)
    first = GlobalOrder(count, seeds[0]).order(0, count)[0]
    second = GlobalOrder(count, seeds[1]).order(count, 2 * count)[0]
    for left, right in [
        (first[1:], first[:-1]),
        (first[256:], first[:-256]),
        (first, np.arange(count)),
        (first, second),
    ]:
        assert abs(np.corrcoef(left, right)[0, 1]) < bound
    # Runs of consecutive indices (i, i+1) would keep the images of an identity in one batch.
    assert np.count_nonzero(np.diff(first) == 1) < 10


@pytest.mark.parametrize(("count", "block", "mixing"), [(17_000_000, 4096, 8), (10_007, 64, 5)])
def test_a_group_of_blocks_is_finished_before_the_next(count: int, block: int, mixing: int) -> None:
    order = BlockOrder(count, 11, block_records=block, mixing_blocks=mixing)
    blocks = -(-count // block)
    groups = -(-blocks // mixing)
    larger, size = blocks % groups, blocks // groups
    bounds = [block * (group * size + min(group, larger)) for group in range(groups)] + [count]
    for group in (0, 1, larger - 1, larger, groups - 1):
        start, stop = bounds[group], bounds[group + 1]
        samples = np.sort(order.order(3 * count + start, 3 * count + stop)[0])
        runs = 1 + np.count_nonzero(np.diff(samples) != 1)
        # Neighbouring blocks make one run, and the end of the files divides one into two.
        assert mixing // 2 - 1 <= runs <= mixing + 1
        assert len(np.unique(samples)) == stop - start <= mixing * block


def test_a_reader_that_keeps_the_mixed_blocks_reads_every_block_once() -> None:
    count, block, mixing = 10_007, 64, 5
    order = BlockOrder(count, 2, block_records=block, mixing_blocks=mixing)
    positions = np.empty(count, dtype=np.int64)
    positions[order.order(5 * count, 6 * count)[0]] = np.arange(count)
    # Neighbours in one block are at most as far apart as what is mixed; most others are further.
    far = np.count_nonzero(np.abs(np.diff(positions)) >= mixing * block)
    assert 100 < far <= -(-count // block)


def test_images_of_a_group_are_mixed_well() -> None:
    order = BlockOrder(4000, 3, block_records=100, mixing_blocks=10)
    samples, _ = order.order(0, 1000)
    assert abs(np.corrcoef(samples[1:], samples[:-1])[0, 1]) < 4 / math.sqrt(1000)
    assert len(np.unique(samples[:50] // 100)) > 8


def test_blocks_and_their_images_have_a_new_order_in_each_epoch() -> None:
    count, block, epochs = 1000, 50, 10
    order = BlockOrder(count, 3, block_records=block, mixing_blocks=1)
    cuts: set[int] = set()
    sequences: set[tuple[int, ...]] = set()
    shuffles: set[tuple[int, ...]] = set()
    for epoch in range(epochs):
        blocks = order.order(epoch * count, (epoch + 1) * count)[0].reshape(-1, block)
        # A block starts at the record whose predecessor on the ring is not in it.
        starts = np.array([np.setdiff1d(one, (one + 1) % count).item() for one in blocks])
        cuts.add(starts[0] % block)
        sequences.add(tuple((starts - starts[0]) % count))
        shuffles.update(map(tuple, (blocks - starts[:, None]) % count))
    assert len(cuts) > epochs / 2
    assert len(sequences) == epochs
    assert len(shuffles) == epochs * count // block


def test_a_set_smaller_than_a_block_is_shuffled_as_a_whole() -> None:
    count, epochs = 5, 20_000
    order = BlockOrder(count, 5, block_records=4096, mixing_blocks=8)
    orders = order.order(0, epochs * count)[0].reshape(epochs, count)
    frequencies = np.unique(orders @ (count ** np.arange(count)), return_counts=True)[1]
    assert len(frequencies) == math.factorial(count)
    assert chi_square_sigmas(frequencies) < 4


def test_blocks_and_files_follow_the_storage_order() -> None:
    stored = np.random.default_rng(0).permutation(50)
    in_place = BlockOrder(50, 1, block_records=4, mixing_blocks=2)
    moved = BlockOrder(50, 1, block_records=4, mixing_blocks=2, stored=stored)
    assert (moved.order(0, 150)[0] == stored[in_place.order(0, 150)[0]]).all()
    assert moved.order(0, 1)[0].dtype == np.int64
    assert FileOrder(50, stored).order(40, 110)[0].tolist() == [*stored[40:], *stored, *stored[:10]]
    assert FileOrder(50).order(40, 60)[0].tolist() == [*range(40, 50), *range(10)]


@pytest.mark.parametrize("kind", ["global", "blocks"])
@pytest.mark.parametrize(
    ("count", "seed", "field"),
    [(0, 0, "num_samples is 0"), (5, -1, "seed is -1"), (5, 2**64, f"seed is {2**64}")],
)
def test_invalid_arguments_are_refused(kind: str, count: int, seed: int, field: str) -> None:
    with pytest.raises(ValueError, match=field):
        ORDERS[kind](count, seed)


def test_invalid_blocks_and_storage_orders_are_refused() -> None:
    with pytest.raises(ValueError, match=r"block_records is 0 .*mixing_blocks 8"):
        BlockOrder(5, 0, block_records=0, mixing_blocks=8)
    with pytest.raises(ValueError, match=r"block_records is 4 .*mixing_blocks 0"):
        BlockOrder(5, 0, block_records=4, mixing_blocks=0)
    with pytest.raises(ValueError, match=r"\(4,\).* 5 "):
        FileOrder(5, np.arange(4))
    with pytest.raises(ValueError, match="num_samples is 0"):
        FileOrder(0)


def test_invalid_ranges_are_refused(kind: str) -> None:
    with pytest.raises(ValueError, match=r"\[5, 4\)"):
        ORDERS[kind](5, 0).order(5, 4)
    with pytest.raises(ValueError, match=r"\[-1, 4\)"):
        ORDERS[kind](5, 0).order(-1, 4)
