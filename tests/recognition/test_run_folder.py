"""The lock on a run folder, what a failed start leaves, and what a restart means."""

import os
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from recognition import run_folder
from recognition.distributed import Process, World
from recognition.run_folder import (
    ABANDONED_AFTER,
    Lock,
    Owner,
    RunFolder,
    RunFolderError,
    changed_settings,
    lock_files,
)
from tests.conftest import file_limit

CPU = torch.device("cpu")
ELSEWHERE = Process("elsewhere", "another boot", 12, "34")


def owned_by(folder: Path, process: Process) -> Path:
    """Write a lock of another owner."""
    folder.mkdir(exist_ok=True)
    owner = replace(Owner.this(), process=process, since="2024-05-06 07:08:09", attempt=0)
    file = folder / ".lock.1"
    file.write_text(owner.to_json())
    return file


def ended_process() -> Process:
    with subprocess.Popen(["sleep", "60"]) as running:
        process = Process.of(running.pid)
        running.kill()
    return process


def numbers(folder: Path) -> list[int]:
    return sorted(lock_files(folder).values())


def test_the_lock_of_a_process_that_runs_is_respected(tmp_path: Path) -> None:
    parent = Process.of(os.getppid())
    file = owned_by(tmp_path, parent)
    with pytest.raises(RunFolderError) as caught:
        Lock(tmp_path).acquire()
    for found in (str(tmp_path), parent.host, str(parent.pid), "2024-05-06 07:08:09"):
        assert found in str(caught.value)
    assert list(tmp_path.iterdir()) == [file]


def killed() -> Process:
    return ended_process()


def with_its_id_used_again() -> Process:
    return replace(Process.of(os.getppid()), start="1")


@pytest.mark.parametrize("owner", [killed, with_its_id_used_again])
def test_the_lock_of_a_process_that_ended_is_taken_over(
    tmp_path: Path, owner: Callable[[], Process]
) -> None:
    owned_by(tmp_path, owner())
    lock = Lock(tmp_path)
    lock.acquire()
    assert numbers(tmp_path) == [2]
    lock.release()
    assert numbers(tmp_path) == []


def test_the_lock_of_another_machine_holds_as_long_as_it_is_touched(tmp_path: Path) -> None:
    file = owned_by(tmp_path, ELSEWHERE)
    with pytest.raises(RunFolderError, match="elsewhere"):
        Lock(tmp_path).acquire()
    old = time.time() - ABANDONED_AFTER - 5
    os.utime(file, (old, old))
    Lock(tmp_path).acquire()
    assert numbers(tmp_path) == [2]
    assert [item.name for item in tmp_path.iterdir()] == [".lock.2"]


def test_a_lock_that_is_held_is_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "TOUCHED_EVERY", 0.01)
    lock = Lock(tmp_path)
    lock.acquire()
    (file,) = lock_files(tmp_path)
    os.utime(file, (1, 1))
    deadline = time.monotonic() + 20
    while file.stat().st_mtime < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert file.stat().st_mtime > 2
    lock.release()


def test_of_those_who_take_a_lock_over_at_once_one_wins(tmp_path: Path) -> None:
    ended = ended_process()
    for turn in range(20):
        folder = tmp_path / str(turn)
        owned_by(folder, ended)
        start = threading.Barrier(6)
        taken: list[Lock] = []

        def take(folder: Path, start: threading.Barrier, taken: list[Lock]) -> None:
            lock = Lock(folder)
            start.wait()
            try:
                lock.acquire()
                taken.append(lock)
            except RunFolderError:
                pass

        threads = [threading.Thread(target=take, args=(folder, start, taken)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(taken) == 1
        assert numbers(folder) == [2]
        taken[0].release()


def test_who_looked_too_early_gives_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = owned_by(tmp_path, Process.of(os.getppid()))
    held = held.rename(tmp_path / ".lock.3")  # somebody took over twice since the look
    looks = iter([{}, {held: 3}])
    monkeypatch.setattr(run_folder, "lock_files", lambda folder: next(looks))
    with pytest.raises(RunFolderError):
        Lock(tmp_path).acquire()
    assert list(tmp_path.iterdir()) == [held]


def launched(monkeypatch: pytest.MonkeyPatch, launch: str, attempt: int) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", launch)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(attempt))


def test_a_restarted_attempt_does_not_wait_for_its_predecessor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched(monkeypatch, "a", 1)
    owned_by(tmp_path, ELSEWHERE)
    Lock(tmp_path).acquire()
    assert numbers(tmp_path) == [2]
    with pytest.raises(RunFolderError):
        Lock(tmp_path).acquire()  # of the same attempt


@pytest.mark.parametrize("name", ["run", "folders/of/runs/run"])
def test_a_start_that_fails_leaves_nothing_behind(tmp_path: Path, name: str) -> None:
    def fail(folder: RunFolder) -> None:
        with folder:
            assert numbers(tmp_path / name) == [1]
            raise ValueError("refused")

    with pytest.raises(ValueError, match="refused"):
        fail(RunFolder(tmp_path / name, World(), None))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_an_earlier_run_is_only_resumed(tmp_path: Path) -> None:
    with RunFolder(tmp_path, World(), None) as folder:
        folder.begin({"config.yaml": "old"}, CPU)
        assert (tmp_path / "config.yaml").read_text() == "old"
    with pytest.raises(RunFolderError, match="--resume auto"), RunFolder(tmp_path, World(), None):
        pass
    with RunFolder(tmp_path, World(), "auto") as folder:
        assert folder.resume == "auto"
    assert {item.name for item in tmp_path.iterdir()} == {"config.yaml", "log.txt"}


def test_a_start_that_was_killed_is_no_earlier_run(tmp_path: Path) -> None:
    owned_by(tmp_path / "run", ended_process())
    with RunFolder(tmp_path / "run", World(), None):
        assert numbers(tmp_path / "run") == [2]


def test_first_files_are_written_all_or_none(tmp_path: Path) -> None:
    with (
        pytest.raises(RunFolderError, match="new"),
        RunFolder(tmp_path / "new", World(), None) as folder,
        file_limit(0),
    ):
        folder.begin({"config.yaml": "text"}, CPU)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "config.yaml").write_text("as it was")
    with (
        pytest.raises(RunFolderError),
        RunFolder(tmp_path, World(), "auto") as folder,
        file_limit(0),
    ):
        folder.begin({"config.yaml": "text"}, CPU)
    assert [item.read_text() for item in tmp_path.iterdir()] == ["as it was"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RunFolderError, match=str(path)), RunFolder(path, World(), None):
            pass


def test_a_restart_by_torchrun_continues_its_own_run_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched(monkeypatch, "a", 0)
    with RunFolder(tmp_path, World(), None) as folder:
        folder.begin({"config.yaml": "text"}, CPU)
    launched(monkeypatch, "a", 1)
    for stated, meant in ((None, "auto"), ("auto", "auto"), ("a/path", "a/path")):
        with RunFolder(tmp_path, World(), stated) as folder:
            assert folder.resume == meant
    launched(monkeypatch, "b", 1)
    with pytest.raises(RunFolderError), RunFolder(tmp_path, World(), None):
        pass


def test_changed_settings_are_listed_with_both_values() -> None:
    old = {"seed": 1, "optimizer": {"lr": 0.1, "name": "sgd"}}
    new = {"seed": 1, "optimizer": {"lr": 0.05, "name": "sgd"}, "more": 3}
    assert changed_settings(old, new) == [
        "optimizer.lr was 0.1 and is 0.05", "more was None and is 3",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["log.txt", "metrics.jsonl", "config.yaml"])
def test_a_folder_with_links_for_files_is_refused_and_nothing_follows_them(
    tmp_path: Path, name: str
) -> None:
    victim, folder = tmp_path / "victim", tmp_path / "run"
    victim.write_text("precious")
    folder.mkdir()
    (folder / name).symlink_to(victim)
    with pytest.raises(RunFolderError, match=name), RunFolder(folder, World(), "auto"):
        pass
    assert victim.read_text() == "precious"
    assert [item.name for item in folder.iterdir()] == [name]


def test_checkpoints_may_lie_on_another_disk(tmp_path: Path) -> None:
    (tmp_path / "large").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(tmp_path / "large")
    with RunFolder(tmp_path / "run", World(), "auto") as folder:
        assert folder.resume == "auto"
