import os
import signal
from collections.abc import Iterator

import pytest

from data.parallel import in_order


def double(number: int) -> int:
    if number == 13:
        raise KeyError("thirteen")
    if number == 99:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * number


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order(workers: int) -> None:
    assert list(in_order(double, range(12), workers)) == list(range(0, 24, 2))


def test_few_items_are_taken_ahead() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(12):
            taken.append(number)
            yield number

    results = in_order(double, items(), 2)
    assert next(results) == 0
    assert len(taken) == 7
    assert list(results)[-1] == 22


@pytest.mark.parametrize("workers", [1, 2])
def test_an_exception_comes_at_its_turn(workers: int) -> None:
    results = in_order(double, range(12, 20), workers)
    assert next(results) == 24
    with pytest.raises(KeyError, match="thirteen"):
        next(results)


def test_a_killed_worker_is_said() -> None:
    with pytest.raises(ValueError, match="killed, most often for lack of memory"):
        list(in_order(double, [1, 99], 2))


def test_no_workers_are_refused() -> None:
    with pytest.raises(ValueError, match="workers is 0"):
        in_order(double, [1], 0)
