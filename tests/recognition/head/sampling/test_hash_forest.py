"""HF-Softmax's classes: the neighbours found, the random rest, and when the index is built."""

import copy
import sys

import pytest
import torch
from torch import Tensor

from recognition.head.sampling import hash_forest
from recognition.head.sampling.hash_forest import HashForest, build_index, nearest
from tests.recognition.head.helpers import Scene, reader, scene


def _fraction_of_nearest(world: Scene, ids: Tensor, neighbours: int) -> float:
    """Return the fraction of the samples' true nearest classes that are among the ids."""
    true = world.cosines().topk(neighbours, 1).indices.flatten()
    return torch.isin(true, ids).double().mean().item()


@pytest.mark.parametrize("centres", [1, 2])
def test_finds_most_of_the_nearest_centres(centres: int) -> None:
    world = scene(centres=centres)
    flat = Scene(world.weight.view(-1, 1, 32), world.unit, world.labels)
    true = flat.cosines().topk(20, 1)

    index = build_index(reader(world.weight), seed=0)
    cosine, row = nearest(index, world.unit, 20)

    assert row.shape == (24, 20)
    shared = [
        len(set(a.tolist()) & set(b.tolist())) for a, b in zip(row, true.indices, strict=True)
    ]
    # Chance would find 0.7% of them; what is found at these settings is above 90%.
    assert sum(shared) > 0.8 * 24 * 20
    assert (row[:, 0] == true.indices[:, 0]).double().mean() > 0.9
    assert nearest(index, world.unit, 10**6)[1].shape == (24, 3000 * centres)
    # 8 bits per number: each of 32 is off by up to 1/510 of its range, and the errors add up.
    assert (cosine - flat.cosines().gather(1, row)).abs().max() < 0.02


@pytest.mark.parametrize("centres", [1, 2])
def test_takes_the_batch_its_neighbours_and_exactly_the_quota(centres: int) -> None:
    world = scene(centres=centres)

    ids = world.active(HashForest(100), 0.1)

    assert len(ids) == 300
    assert set(world.labels.tolist()) <= set(ids.tolist())
    assert _fraction_of_nearest(world, ids, 300 // 24) > 0.8


def test_best_come_first_where_the_neighbours_are_too_many() -> None:
    world = scene()

    ids = world.active(HashForest(100, neighbours=200), 0.02)

    assert len(ids) == 60
    best = world.cosines().amax(0)
    best[world.labels] = 2.0
    hardest = best.topk(60).indices
    assert torch.isin(hardest, ids).sum() > 50


def test_the_rest_is_drawn_anew_in_each_step_as_a_pure_function() -> None:
    world = scene()
    forest = HashForest(100, neighbours=1)
    fixed = set(world.labels.tolist())

    draws = [set(world.active(forest, 0.1, step=step).tolist()) - fixed for step in (1, 2)]

    # Some 270 independent draws in 3000 have 25 in common, with a standard deviation below 5.
    assert 2 < len(draws[0] & draws[1]) < 60
    assert all(max(draw) > 2900 and min(draw) < 100 for draw in draws)
    torch.manual_seed(5)
    again = world.active(HashForest(100, neighbours=1), 0.1, step=2)
    assert set(again.tolist()) - fixed == draws[1]


def test_the_index_is_rebuilt_when_due_and_not_before() -> None:
    world = scene()
    other = Scene(world.weight.flip(0).contiguous(), world.unit, world.labels)
    forest = HashForest(rebuild_every=10)
    first = world.active(forest, 0.1, step=20)

    # Between rebuilds the index holds old centres, whatever the table holds ...
    stale = other.active(forest, 0.1, step=29)
    assert (
        _fraction_of_nearest(world, stale, 10) > 0.8 > 0.5 > _fraction_of_nearest(other, stale, 10)
    )
    # ... a second batch of the step of a rebuild does not rebuild again ...
    forest = HashForest(rebuild_every=10)
    world.active(forest, 0.1, step=30)
    assert _fraction_of_nearest(world, other.active(forest, 0.1, step=30), 10) > 0.8
    # ... and the step that is due does.
    fresh = other.active(forest, 0.1, step=40)
    assert _fraction_of_nearest(other, fresh, 10) > 0.8
    assert torch.equal(first, world.active(HashForest(rebuild_every=10), 0.1, step=20))


def test_a_resumed_run_draws_the_same_once_the_other_forgets() -> None:
    world, moved = scene(), scene(seed=1)
    kept = HashForest(rebuild_every=100)
    world.active(kept, 0.1, step=0)
    stale = moved.active(kept, 0.1, step=7)

    kept.forget()  # as whoever saves a checkpoint at step 7 does
    resumed = moved.active(HashForest(rebuild_every=100), 0.1, step=7)

    assert torch.equal(moved.active(kept, 0.1, step=7), resumed)
    assert not torch.equal(stale, resumed)


@pytest.mark.parametrize("ranks", [2, 7])
def test_shards_take_their_quota_from_their_own_index(ranks: int) -> None:
    world = scene(classes=1001)
    ids = []
    for rank in range(ranks):
        quota = world.request(0.2, rank=rank, ranks=ranks).shard_quota
        ids.append(world.active(HashForest(100), 0.2, rank=rank, ranks=ranks))
        positives = torch.isin(world.labels, ids[-1]).sum()
        assert len(ids[-1]) == max(quota, int(positives))
    together = torch.cat(ids)
    assert len(together) == 201  # ceil of 200.2
    assert set(world.labels.tolist()) <= set(together.tolist())
    assert _fraction_of_nearest(world, together, 5) > 0.8


@pytest.mark.parametrize("classes", [1, 3, 5, 40])
def test_few_classes_even_fewer_than_ranks(classes: int) -> None:
    world = scene(classes=classes, samples=3)
    for rate in (0.4, 1.0):
        ids = [world.active(HashForest(100), rate, rank=rank, ranks=4) for rank in range(4)]
        assert set(world.labels.tolist()) <= set(torch.cat(ids).tolist())
        assert rate < 1.0 or len(torch.cat(ids)) == classes


def test_where_cells_hold_too_few_neighbours_those_found_are_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hash_forest, "_PROBES", 1)
    monkeypatch.setattr(hash_forest, "_SPARE", 0)
    world = scene()
    assert (nearest(build_index(reader(world.weight), 0), world.unit, 200)[1] == -1).any()

    ids = world.active(HashForest(100, neighbours=200), 0.3)

    assert len(ids) == 900
    assert set(world.labels.tolist()) <= set(ids.tolist())
    assert _fraction_of_nearest(world, ids, 1) > 0.9


def test_a_copy_of_a_forest_continues_as_the_original() -> None:
    world, moved = scene(), scene(seed=1)
    forest = HashForest(100)
    world.active(forest, 0.1, step=0)

    twin = copy.deepcopy(forest)

    assert torch.equal(moved.active(forest, 0.1, step=3), moved.active(twin, 0.1, step=3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rebuild_every": 0}, "rebuild_every: 0 "),
        ({"rebuild_every": 1, "neighbours": 0}, "neighbours: 0 "),
    ],
)
def test_settings_out_of_range_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HashForest(**options)


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)

    with pytest.raises(ValueError, match=r"pip install 'partialfc\[forest\]'"):
        HashForest(100)
