"""Taking the best-scored classes, and each shard's part of the quota."""

import pytest
import torch

from recognition.distributed import shard_range
from recognition.head.hashing import class_hash
from recognition.head.sampling.by_score import take_best
from recognition.head.sampling.rule import SampleRequest


@pytest.mark.parametrize("classes", [1, 7, 100, 1001])
def test_the_shards_parts_of_the_quota_add_up_to_it(classes: int) -> None:
    for ranks in (1, 2, 3, 8):
        shards = [shard_range(classes, ranks, rank) for rank in range(ranks)]
        for rate in (0.05, 0.3, 1.0):
            requests = [
                SampleRequest(torch.tensor([0]), *shard, classes, rate, 0, 0) for shard in shards
            ]
            parts = [request.shard_quota for request in requests]
            assert sum(parts) == requests[0].quota
            sizes = [stop - start for start, stop in shards]
            assert all(0 <= s <= n for s, n in zip(parts, sizes, strict=True))


def test_best_scores_are_taken_in_the_order_of_floats() -> None:
    score = torch.tensor([-0.5, -0.0, 1e-40, 0.0, -torch.inf, 2.0, -2.0, torch.inf])
    for quota, expected in [(2, {4, 7}), (3, {4, 5, 7}), (4, {2, 4, 5, 7}), (7, set(range(7)))]:
        rate = quota / 8
        request = SampleRequest(torch.tensor([4]), 0, 8, 8, rate, 0, 0)
        index = take_best(request, lambda: score).rows.index
        assert index is not None
        found = set(index.tolist())
        assert found == (expected if quota < 7 else set(range(8)) - {6})


def test_equal_scores_are_taken_in_the_order_of_the_hash() -> None:
    request = SampleRequest(torch.tensor([2]), 0, 64, 64, rate=0.5, seed=1, step=3)

    rows = take_best(request, lambda: torch.tensor([0.0, -0.0]).repeat(32)).rows

    assert rows.index is not None
    hashes = class_hash(torch.arange(64), seed=1, step=3)
    hashes[2] = -1
    assert torch.equal(rows.index, hashes.argsort()[:32].sort().values)


@pytest.mark.parametrize(("labels", "overflow"), [(30, True), (10, True), (9, False)])
def test_best_scores_give_way_to_positives_beyond_the_quota(labels: int, overflow: bool) -> None:
    request = SampleRequest(torch.arange(labels), 0, 100, 100, rate=0.1, seed=0, step=0)

    answer = take_best(request, lambda: torch.arange(100.0))

    assert answer.overflow == overflow
    assert answer.rows.index is not None
    assert answer.rows.index.tolist() == list(range(labels)) + [99] * (not overflow)
