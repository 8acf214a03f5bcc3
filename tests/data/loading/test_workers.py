import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from data.loading.workers import Workers


def double(number: int) -> int:
    if number == 13:
        raise KeyError("thirteen")
    if number == 99:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * number


KINDS = pytest.mark.parametrize(
    ("count", "processes"), [(1, True), (2, False), (2, True)], ids=["none", "threads", "processes"]
)


@KINDS
def test_results_come_in_order(count: int, processes: bool) -> None:
    with Workers(count, processes=processes) as workers:
        assert workers.elsewhere == (processes and count == 2)
        assert list(workers.in_order(double, range(12))) == list(range(0, 24, 2))
        assert list(workers.in_order(double, range(3))) == [0, 2, 4]


@pytest.mark.parametrize("processes", [False, True])
def test_few_items_are_taken_ahead(processes: bool) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(12):
            taken.append(number)
            yield number

    with Workers(2, processes=processes, ahead=3) as workers:
        results = workers.in_order(double, items())
        assert next(results) == 0
        assert len(taken) == 7
        assert list(results)[-1] == 22


@KINDS
def test_an_exception_comes_at_its_turn(count: int, processes: bool) -> None:
    with Workers(count, processes=processes) as workers:
        results = workers.in_order(double, range(12, 20))
        assert next(results) == 24
        with pytest.raises(KeyError, match="thirteen"):
            next(results)


def test_threads_end_with_the_block_and_leave_what_was_not_begun() -> None:
    begun: list[int] = []

    def slow(number: int) -> int:
        begun.append(number)
        time.sleep(0.02)
        return number

    with Workers(2, processes=False, ahead=50) as workers:
        assert next(workers.in_order(slow, range(100))) == 0
    assert len(begun) < 50
    assert [thread for thread in threading.enumerate() if "ThreadPool" in thread.name] == []


def test_a_killed_worker_is_said() -> None:
    with (
        pytest.raises(ValueError, match="killed, most often for lack of memory"),
        Workers(2, processes=True) as workers,
    ):
        list(workers.in_order(double, [1, 99]))


def test_no_workers_are_refused() -> None:
    with pytest.raises(ValueError, match="workers is 0"):
        Workers(0, processes=False)


ORPHANS = """
import os, time
from data.loading.workers import Workers

def slowly(seconds):
    print(os.getpid(), flush=True)
    time.sleep(seconds)

if __name__ == "__main__":
    with Workers(2, processes=True) as workers:
        list(workers.in_order(slowly, [100.0] * 2))
"""


def test_worker_processes_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "orphans.py"
    script.write_text(ORPHANS)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    parent = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert parent.stdout is not None
    workers = {int(parent.stdout.readline()) for _ in range(2)}
    assert len(workers) == 2
    parent.kill()
    # Its end comes when nobody holds the other side of the pipe any more.
    assert parent.communicate(timeout=60)[0] == ""
