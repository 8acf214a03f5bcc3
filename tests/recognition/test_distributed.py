import os
import subprocess
from collections.abc import Callable

import pytest
import torch

from recognition.distributed import (
    World,
    choose_device,
    choose_threads,
    current,
    part_range,
    shard_range,
)

Split = Callable[[int, int, int], tuple[int, int]]
SIZES = [0, 1, 2, 9, 10, 101, 1000]


def test_one_process_is_a_world_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert current() == World(0, 1, 0, 1)
    assert current().is_main


def test_torchruns_environment_is_read_and_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": 5, "WORLD_SIZE": 8, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 4}.items():
        monkeypatch.setenv(name, str(value))
    assert current() == World(5, 8, 1, 4)
    assert not current().is_main
    monkeypatch.setenv("RANK", "8")
    with pytest.raises(ValueError, match="RANK=8 with WORLD_SIZE=8"):
        current()


@pytest.mark.parametrize(
    ("requested", "gpus", "expected"),
    [("auto", 0, "cpu"), ("auto", 2, "cuda:1"), ("cpu", 2, "cpu"), ("cuda", 2, "cuda:1")],
)
def test_the_device_is_chosen_with_a_reason(
    monkeypatch: pytest.MonkeyPatch, requested: str, gpus: int, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    device, reason = choose_device(requested, World(1, 2, 1, 2))
    assert str(device) == expected
    assert reason.startswith(expected)


@pytest.mark.parametrize("requested", ["auto", "cuda"])
def test_more_ranks_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch, requested: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match=r"\b2 processes.*\b1 CUDA.*--nproc-per-node=1"):
        choose_device(requested, World(0, 2, 0, 2))


def test_cuda_without_a_gpu_is_no_matter_of_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"train\.device.*CUDA_VISIBLE_DEVICES") as caught:
        choose_device("cuda", World(0, 1, 0, 1))
    assert torch.__version__ in str(caught.value)
    assert "nproc" not in str(caught.value)


def test_cores_are_divided_among_ranks_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert choose_threads(World(0, 2, 0, 2))[0] == 4
    assert choose_threads(World(0, 16, 0, 16))[0] == 1
    assert choose_threads(World(0, 2, 0, 1))[0] == 3  # alone on its machine: torch's own choice
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert choose_threads(World(0, 2, 0, 2))[0] == 3


@pytest.mark.parametrize(("chosen", "threads"), [({}, 4), ({"OMP_NUM_THREADS": "1"}, 1)])
def test_torchruns_own_thread_is_told_from_the_users(
    monkeypatch: pytest.MonkeyPatch, chosen: dict[str, str], threads: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a run")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # of the rank, in both cases
    pipe, environment = subprocess.PIPE, {"PATH": os.environ["PATH"], **chosen}
    with subprocess.Popen(["cat"], env=environment, stdin=pipe, stdout=pipe) as launcher:
        assert launcher.stdin is not None
        assert launcher.stdout is not None
        launcher.stdin.write(b"ready\n")
        launcher.stdin.flush()
        launcher.stdout.readline()  # it runs, so its environment can be read
        monkeypatch.setattr("os.getppid", lambda: launcher.pid)
        found = choose_threads(World(0, 2, 0, 2))[0]
        launcher.kill()
    assert found == threads


@pytest.mark.parametrize("split", [part_range, shard_range])
@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("parts", [1, 2, 3, 4, 7])
def test_parts_cover_the_range_without_overlap(split: Split, count: int, parts: int) -> None:
    ranges = [split(count, parts, part) for part in range(parts)]
    assert [index for start, stop in ranges for index in range(start, stop)] == list(range(count))


@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("parts", [1, 2, 3, 4, 7])
def test_part_range_is_even(count: int, parts: int) -> None:
    sizes = [stop - start for start, stop in (part_range(count, parts, p) for p in range(parts))]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("count", SIZES[1:])
@pytest.mark.parametrize("parts", [1, 2, 3, 4, 7])
def test_shard_range_is_that_of_dtensor(count: int, parts: int) -> None:
    # DTensor's Shard(0) splits as torch.chunk does, with empty shards for the remaining ranks.
    chunks = torch.arange(count).chunk(parts)
    expected = [len(chunk) for chunk in chunks] + [0] * (parts - len(chunks))
    ranges = [shard_range(count, parts, part) for part in range(parts)]
    assert [stop - start for start, stop in ranges] == expected


def test_a_part_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="part 4 of 4"):
        part_range(10, 4, 4)
    with pytest.raises(ValueError, match="-1 items"):
        shard_range(-1, 4, 0)
