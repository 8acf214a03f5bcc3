"""The harness itself: results by rank, and failures that are reported in bounded time."""

import os
import time

import pytest
import torch
import torch.distributed as dist

from recognition import distributed
from tests.distributed_harness import RankError, run_ranks


def _world(offset: int) -> tuple[int, int, int, torch.Tensor]:
    total = torch.tensor([dist.get_rank() + offset])
    dist.all_reduce(total)
    world = distributed.current()
    return world.rank, world.size, torch.get_num_threads(), total


def _fails_on_rank_one() -> None:
    if dist.get_rank() == 1:
        raise ValueError("no such class: 7")
    dist.barrier()


def _dies() -> None:
    os._exit(3)


def _hangs() -> None:
    time.sleep(600)


def test_results_are_returned_by_rank() -> None:
    results = run_ranks(_world, 3, 10)

    assert [result[:3] for result in results] == [(rank, 3, 1) for rank in range(3)]
    assert all(result[3].item() == 33 for result in results)


def test_a_failure_is_reported_while_another_rank_waits() -> None:
    # To wait for the limit would be to outlast pytest's own.
    with pytest.raises(RankError, match=r"rank 1 failed(.|\n)*no such class: 7"):
        run_ranks(_fails_on_rank_one, 2, timeout=1000)


def test_a_dead_rank_is_reported() -> None:
    with pytest.raises(RankError, match="exit code 3"):
        run_ranks(_dies, 1, join_group=False)


def test_a_hanging_rank_is_stopped_at_the_limit() -> None:
    with pytest.raises(RankError, match="rank 0 "):
        run_ranks(_hangs, 1, timeout=1.0, join_group=False)
