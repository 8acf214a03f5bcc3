"""The hardest negatives, against the cosines in float64."""

import pytest
import torch

from recognition.head.sampling.hard_negative import HardNegative, largest_cosines
from tests.recognition.head.helpers import Scene, reader, scene

EXACT = HardNegative(1.0, torch.float32)


def _hardest(world: Scene, quota: int, start: int = 0, stop: int | None = None) -> set[int]:
    """Return the batch's classes in a shard, and the best others up to the quota."""
    best = world.cosines().amax(0)
    positives = set(world.labels.tolist())
    order = [int(c) for c in best.argsort(descending=True) if start <= c < (stop or len(best))]
    taken = [c for c in order if c in positives]
    others = [c for c in order if c not in positives]
    return set(taken + others[: max(0, quota - len(taken))])


@pytest.mark.parametrize("centres", [1, 2])
@pytest.mark.parametrize("rate", [0.02, 0.1, 0.5])
def test_takes_the_batch_and_the_hardest_up_to_the_quota(rate: float, centres: int) -> None:
    world = scene(centres=centres)

    ids = world.active(EXACT, rate)

    assert len(ids) == rate * 3000
    assert set(ids.tolist()) == _hardest(world, round(rate * 3000))


def test_low_precision_swaps_only_classes_that_are_about_equally_hard() -> None:
    world = scene()
    best = world.cosines().amax(0)

    ids = world.active(HardNegative(1.0), 0.1)

    assert len(ids) == 300
    missed = sorted(_hardest(world, 300) - set(ids.tolist()))
    wrong = sorted(set(ids.tolist()) - _hardest(world, 300))
    assert len(missed) < 15
    # bfloat16 keeps 8 bits: each factor and the product are off by up to 2^-9 of themselves.
    for pair in zip(sorted(best[missed].tolist()), sorted(best[wrong].tolist()), strict=True):
        assert abs(pair[0] - pair[1]) < 3 * 2**-9


def test_a_fraction_is_the_hardest_and_the_rest_is_drawn() -> None:
    world = scene()
    rule = HardNegative(0.5, torch.float32)
    positives = set(world.labels.tolist())
    first, later = (set(world.active(rule, 0.1, step=step).tolist()) for step in (0, 1))
    assert len(first) == len(later) == 300
    hardest = _hardest(world, 150 + len(positives))  # half of the quota of 300
    for taken in (first, later):
        assert hardest <= taken
    drawn = first - hardest, later - hardest
    # Two draws of some 130 from 2,830 have 6 in common, with a standard deviation below 3.
    assert len(drawn[0] & drawn[1]) < 20
    assert first == set(world.active(rule, 0.1, step=0).tolist())


@pytest.mark.parametrize("fraction", [0.0, 1.5])
def test_a_fraction_out_of_range_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match=f"hard_share: {fraction}"):
        HardNegative(fraction)


@pytest.mark.parametrize("ranks", [2, 3, 7])
def test_each_shard_takes_its_hardest_and_all_shards_the_quota(ranks: int) -> None:
    world = scene(classes=1001)
    total = 0
    for rank in range(ranks):
        request = world.request(0.1, rank=rank, ranks=ranks)
        ids = world.active(EXACT, 0.1, rank=rank, ranks=ranks)
        quota = request.shard_quota
        assert set(ids.tolist()) == _hardest(world, quota, request.start, request.stop)
        total += quota
    assert total == 101  # ceil of 100.1


def test_a_rank_without_classes_takes_none() -> None:
    world = scene(classes=5, samples=3)

    assert [len(world.active(EXACT, 1.0, rank=r, ranks=4)) for r in range(4)] == [2, 2, 1, 0]
    assert len(world.active(EXACT, 0.5, rank=3, ranks=4)) == 0


def test_rate_one_takes_the_whole_table_without_an_index() -> None:
    world = scene(classes=50)

    rows = EXACT(world.request(1.0)).rows

    assert (rows.count, rows.index) == (50, None)


def test_more_classes_in_the_batch_than_the_quota_are_all_taken_and_reported() -> None:
    world = scene(samples=200)
    positives = set(world.labels.tolist())

    answer = EXACT(world.request(0.01))

    assert answer.overflow
    assert answer.positive_classes.item() == len(positives)
    assert answer.rows.index is not None
    assert set(answer.rows.index.tolist()) == positives
    assert not EXACT(world.request(0.1)).overflow


def test_the_block_size_changes_nothing() -> None:
    world = scene(classes=501, centres=2)

    for block_bytes in (1, 10_000):
        small = HardNegative(1.0, torch.float32, block_bytes)
        assert torch.equal(world.active(small, 0.1), world.active(EXACT, 0.1))


def test_equal_scores_are_drawn_by_hash() -> None:
    world = scene(classes=400, samples=2)
    world.weight[:] = world.weight[0]

    ids = world.active(EXACT, 0.25)
    later = world.active(EXACT, 0.25, step=1)

    assert torch.equal(ids, world.active(EXACT, 0.25))
    # Two independent draws of 100 in 400 have 25 in common, with a standard deviation below 4.
    assert 5 < len(set(ids.tolist()) & set(later.tolist())) < 45


def test_a_score_is_the_largest_cosine_of_a_class_with_the_batch() -> None:
    world = scene(classes=100, centres=3)
    world.weight[7] = 0.0  # a centre without direction has the cosine 0

    found = largest_cosines(world.unit, reader(world.weight), torch.float32, 1 << 20)

    assert found.dtype == torch.float32
    # 32 float32 products are added for the cosine, and as many for the norm: 2^-24 each.
    assert (found - world.cosines().amax(0)).abs().max() < 64 * 2**-24


def test_negative_cosines_are_in_order_too() -> None:
    world = scene(classes=200, samples=4)
    opposite = Scene(-world.weight.abs(), world.unit.abs(), world.labels)
    assert opposite.cosines().max() < 0

    assert set(opposite.active(EXACT, 0.2).tolist()) == _hardest(opposite, 40)
