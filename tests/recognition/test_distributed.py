import pytest
import torch

from recognition.distributed import World, choose_device, choose_threads, current


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


@pytest.mark.parametrize(("requested", "gpus"), [("auto", 1), ("cuda", 0)])
def test_more_ranks_than_gpus_are_refused(
    monkeypatch: pytest.MonkeyPatch, requested: str, gpus: int
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(ValueError, match=f"2 processes on this machine, {gpus} CUDA devices"):
        choose_device(requested, World(0, 2, 0, 2))


def test_cores_are_spread_over_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert choose_threads(torch.device("cpu"), World(0, 2, 0, 2))[0] == 4
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)  # somebody set OMP_NUM_THREADS
    assert choose_threads(torch.device("cpu"), World(0, 2, 0, 2))[0] == 3
