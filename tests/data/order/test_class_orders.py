import math
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from data.order.class_orders import ClassBalancedOrder, FirstImagesOrder, PKOrder
from data.order.orders import SampleOrder
from tests.data.order.test_permutation import chi_square_sigmas

Labels = NDArray[np.int64]
P, K = 4, 3

ORDERS: dict[str, Callable[[Labels, int], SampleOrder]] = {
    "class_balanced": ClassBalancedOrder,
    "p_k": lambda labels, seed: PKOrder(
        labels, seed, identities_per_batch=P, images_per_identity=K
    ),
}


def make_labels(*counts: int) -> Labels:
    """Return labels of classes with these numbers of images, in a mixed order."""
    return np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))


LABELS = make_labels(1, 2, 3, 4, 5, 6, 7, 10, 23, 100)


@pytest.fixture(params=ORDERS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_every_round_has_every_class_once() -> None:
    samples, _ = ClassBalancedOrder(LABELS, 1).order(0, 500 * 10)
    rounds = LABELS[samples].reshape(500, 10)
    assert (np.sort(rounds, axis=1) == np.arange(10)).all()
    for turn in range(10):
        assert chi_square_sigmas(np.bincount(rounds[:, turn], minlength=10)) < 4


def test_an_image_is_repeated_after_all_others_of_its_class() -> None:
    samples, passes = ClassBalancedOrder(LABELS, 1).order(0, 300 * 10)
    for label, count in enumerate(np.bincount(LABELS)):
        of_class = LABELS[samples] == label
        in_turn = samples[of_class][: 300 // count * count].reshape(-1, count)
        assert (np.sort(in_turn, axis=1) == np.flatnonzero(label == LABELS)).all()
        assert (passes[of_class] == np.arange(300) // count).all()


def test_each_pass_through_a_class_has_its_own_order() -> None:
    labels = make_labels(5, 9)
    samples, _ = ClassBalancedOrder(labels, 1).order(0, 20_000 * 5 * 2)
    in_turn = samples[labels[samples] == 0].reshape(20_000, 5)
    images = np.searchsorted(np.flatnonzero(labels == 0), in_turn)
    frequencies = np.unique(images @ (5 ** np.arange(5)), return_counts=True)[1]
    assert len(frequencies) == math.factorial(5)
    assert chi_square_sigmas(frequencies) < 4


def test_classes_of_one_size_are_not_shuffled_alike() -> None:
    labels = make_labels(*[9] * 50)
    samples, _ = ClassBalancedOrder(labels, 1).order(0, 9 * 50)
    shuffles = set()
    for label in range(50):
        images = np.flatnonzero(labels == label)
        shuffles.add(tuple(np.searchsorted(images, samples[labels[samples] == label])))
    assert len(shuffles) == 50


@pytest.mark.parametrize(("p", "k"), [(4, 3), (1, 1), (1, 120), (10, 2), (7, 5), (3, 8)])
def test_every_group_has_p_identities_with_k_images(p: int, k: int) -> None:
    order = PKOrder(LABELS, 2, identities_per_batch=p, images_per_identity=k)
    counts = np.bincount(LABELS)
    for group in order.order(0, 400 * p * k)[0].reshape(400, p, k):
        identities = LABELS[group]
        assert (identities == identities[:, :1]).all()
        assert len(set(identities[:, 0])) == p
        for identity, images in zip(identities[:, 0], group, strict=True):
            times = np.unique(images, return_counts=True)[1]
            assert len(times) == min(k, counts[identity])
            assert times.max() - times.min() <= 1


def test_every_image_occurs_and_never_twice_in_a_pass() -> None:
    order = PKOrder(LABELS, 2, identities_per_batch=P, images_per_identity=K)
    samples, passes = order.order(0, 4000 * P * K)
    visits, times = np.unique(np.stack([samples, passes]), axis=1, return_counts=True)
    assert times.max() == 1
    assert len(np.unique(visits[0])) == len(LABELS)
    of_23 = visits[:, LABELS[visits[0]] == 8]
    # 23 images make 7 groups of 3 per pass, and the 2 that are left over differ between passes.
    drawn = np.bincount(of_23[1])
    assert drawn.max() == 21
    assert chi_square_sigmas(np.bincount(of_23[0])[np.flatnonzero(LABELS == 8)]) < 4


def test_identities_are_left_out_equally_often() -> None:
    order = PKOrder(LABELS, 2, identities_per_batch=P, images_per_identity=K)
    rounds = LABELS[order.order(0, 3000 * 8 * K)[0][::K]].reshape(3000, 8)
    assert all(len(set(identities)) == 8 for identities in rounds.tolist())
    assert chi_square_sigmas(np.bincount(rounds.ravel())) < 4


def test_any_part_of_the_stream_is_the_same_from_anywhere(kind: str) -> None:
    order = ORDERS[kind](LABELS, 9)
    whole, passes = order.order(0, 2000)
    assert whole.dtype == passes.dtype == np.int64
    for start, stop in [(0, 1), (9, 14), (500, 500), (333, 1777), (1999, 2000)]:
        part, part_passes = order.order(start, stop)
        assert (part == whole[start:stop]).all()
        assert (part_passes == passes[start:stop]).all()
    assert order.order(10**15, 10**15 + 50)[0].max() < len(LABELS)


def test_seeds_are_unrelated(kind: str) -> None:
    labels = make_labels(*[20] * 1000)
    first, second = (ORDERS[kind](labels, seed).order(0, 30_000)[0] for seed in (0, 1))
    assert abs(np.corrcoef(labels[first], labels[second])[0, 1]) < 4 * math.sqrt(K / 30_000)
    assert (first == second).mean() < 0.001


def test_no_sample_has_an_epoch_twice(kind: str) -> None:
    samples, passes = ORDERS[kind](LABELS, 4).order(0, 6000)
    assert np.unique(np.stack([samples, passes]), axis=1).shape[1] == 6000


def test_the_order_of_the_labels_does_not_matter(kind: str) -> None:
    by_label = np.argsort(LABELS, kind="stable")
    mixed, ascending = ORDERS[kind](LABELS, 6), ORDERS[kind](LABELS[by_label], 6)
    assert (mixed.order(0, 500)[0] == by_label[ascending.order(0, 500)[0]]).all()


@pytest.mark.parametrize("count", [1, 2, 7])
def test_one_class_is_shuffled_whole(count: int) -> None:
    labels = np.zeros(count, dtype=np.int64)
    single = PKOrder(labels, 0, identities_per_batch=1, images_per_identity=1)
    for order in (ClassBalancedOrder(labels, 0), single):
        for once in order.order(0, 5 * count)[0].reshape(5, count):
            assert (np.sort(once) == np.arange(count)).all()


def test_tables_take_at_most_four_bytes_per_image_and_none_for_sorted_labels(kind: str) -> None:
    mixed = np.random.default_rng(0).permutation(np.repeat(np.arange(1000), 500))
    for labels, limit in ((mixed, 4 * len(mixed)), (np.sort(mixed), 0)):
        tracemalloc.start()
        try:
            order = ORDERS[kind](labels, 0)
            assert tracemalloc.get_traced_memory()[0] <= limit + 2 * 8 * 1000 + 10_000
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            order.order(10**9, 10**9 + 512)
            assert tracemalloc.get_traced_memory()[1] - before < 200_000
        finally:
            tracemalloc.stop()


def test_the_streams_are_frozen() -> None:
    # A change of these numbers changes what every resumed run would see.
    labels = np.array([0, 1, 1, 2, 2, 2, 2])
    balanced = ClassBalancedOrder(labels, 0)
    assert balanced.order(0, 12)[0].tolist() == [0, 2, 3, 5, 0, 1, 1, 6, 0, 0, 4, 2]
    pairs = PKOrder(labels, 0, identities_per_batch=2, images_per_identity=2)
    assert pairs.order(0, 12)[0].tolist() == [0, 0, 2, 1, 6, 4, 0, 0, 2, 1, 5, 6]


@pytest.mark.parametrize(
    ("labels", "p", "k", "named"),
    [
        ([0, 1, 1], 3, 1, r"identities_per_batch is 3\b.* 1 to 2,"),
        ([0, 1, 1], 0, 1, "identities_per_batch is 0"),
        ([0, 1, 1], 2, 0, "images_per_identity is 0"),
        ([0, 3, 3], 2, 1, r"class 1 \(2 .* 4\).*remap_labels"),
        ([], 1, 1, "labels"),
    ],
)
def test_invalid_arguments_are_refused(labels: list[int], p: int, k: int, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        PKOrder(np.array(labels, np.int64), 0, identities_per_batch=p, images_per_identity=k)


def test_first_images_come_class_by_class_in_the_order_of_the_dataset() -> None:
    labels = np.array([3, 0, 3, 1, 3, 0, 1])  # none of class 2
    order = FirstImagesOrder(labels, images_per_class=2)
    indices, epochs = order.order(1, 9)
    assert order.count == 6
    assert indices.tolist() == [5, 3, 6, 0, 2, 1, 5, 3]
    assert epochs.tolist() == [0] * 5 + [1] * 3
    with pytest.raises(ValueError, match="images_per_class is 0"):
        FirstImagesOrder(labels, images_per_class=0)


def test_invalid_seeds_and_ranges_are_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="seed is -1"):
        ORDERS[kind](LABELS, -1)
    with pytest.raises(ValueError, match=r"\[5, 4\)"):
        ORDERS[kind](LABELS, 0).order(5, 4)
