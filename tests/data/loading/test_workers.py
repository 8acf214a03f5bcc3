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
    ("count", "processes", "background"),
    [(1, True, False), (1, False, True), (2, False, False), (2, True, False)],
    ids=["this thread", "one thread", "threads", "processes"],
)


@KINDS
def test_results_come_in_order(count: int, processes: bool, background: bool) -> None:
    with Workers(count, processes=processes, background=background) as workers:
        assert workers.in_processes == (processes and count == 2)
        assert list(workers.in_order(double, range(12))) == list(range(0, 24, 2))
        assert list(workers.in_order(double, range(3))) == [0, 2, 4]


@pytest.mark.parametrize("processes", [False, True])
def test_items_are_drawn_only_as_far_ahead_as_allowed(processes: bool) -> None:
    drawn: list[int] = []

    def items() -> Iterator[int]:
        for number in range(12):
            drawn.append(number)
            yield number

    with Workers(2, processes=processes, ahead=6) as workers:
        results = workers.in_order(double, items())
        assert next(results) == 0
        assert len(drawn) == 7
        assert list(results)[-1] == 22


@KINDS
def test_an_exception_takes_the_place_of_its_result(
    count: int, processes: bool, background: bool
) -> None:
    with Workers(count, processes=processes, background=background) as workers:
        results = workers.in_order(double, range(12, 20))
        assert next(results) == 24
        with pytest.raises(KeyError, match="thirteen"):
            next(results)


@pytest.mark.parametrize("count", [1, 2])
def test_leaving_the_block_ends_threads_and_drops_pending_items(count: int) -> None:
    started: list[int] = []

    def slow(number: int) -> int:
        started.append(number)
        time.sleep(0.1 * (number > 0))
        return number

    before = threading.active_count()
    with Workers(count, background=True, ahead=100) as workers:
        results = workers.in_order(slow, range(100))
        assert next(results) == 0
    assert len(started) < 100  # which would take 5 seconds
    assert threading.active_count() == before


def test_results_are_computed_before_they_are_asked_for_within_bounds() -> None:
    made: list[int] = []

    def make(item: int) -> int:
        made.append(item)
        return item

    with Workers(1, background=True, ahead=3) as workers:
        results = workers.in_order(make, range(100))
        assert next(results) == 0
        while len(made) < 4:  # for ever, if none were computed ahead
            time.sleep(0.01)
        time.sleep(0.05)  # in which a fifth would come
        assert made == [0, 1, 2, 3]
        assert list(results) == list(range(1, 100))


def test_threads_work_at_once_and_deliver_in_order() -> None:
    together = threading.Barrier(3, timeout=30)

    def wait(item: int) -> int:
        together.wait()  # passes only once three threads are here
        time.sleep(0.002 * (2 - item % 3))  # the last item is done first
        return item

    with Workers(3, ahead=3) as workers:
        assert list(workers.in_order(wait, range(9))) == list(range(9))


def test_a_killed_process_is_an_error() -> None:
    with pytest.raises(ValueError, match="fewer workers"), Workers(2, processes=True) as workers:
        list(workers.in_order(double, [1, 99]))


@pytest.mark.parametrize(
    ("count", "ahead", "found"), [(0, None, "workers is 0"), (2, 0, "ahead is 0")]
)
def test_counts_below_one_are_refused(count: int, ahead: int | None, found: str) -> None:
    with pytest.raises(ValueError, match=found):
        Workers(count, ahead=ahead)


started_in: list[int] = []


def start() -> None:
    started_in.append(os.getpid())


def where_started(_: int) -> list[int]:
    return started_in


@pytest.mark.slow
def test_a_process_is_prepared_before_its_first_item() -> None:
    with Workers(2, processes=True, start=start) as workers:
        (pids,) = workers.in_order(where_started, [0])
    assert len(pids) == 1
    assert pids != [os.getpid()]


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
    # The pipe closes once no process holds its other end.
    assert parent.communicate(timeout=60)[0] == ""
