import os
import signal
from contextlib import closing

import pytest

from scripts.benchmarks.common.processes import ProcessError, Remote, in_fresh_process

pytestmark = pytest.mark.slow


class _Counter:
    def __init__(self, start: int) -> None:
        self._count = start

    def add(self, amount: int) -> int:
        self._count += amount
        return self._count

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("start_method", [None, "fork", "spawn"])
def test_a_function_is_called_in_a_process_of_its_own(start_method: str | None) -> None:
    found = in_fresh_process(os.getppid, start_method=start_method)
    if start_method is not None:  # else the parent is a server
        assert found == os.getpid()
    assert in_fresh_process(os.getpid, start_method=start_method) != os.getpid()
    assert in_fresh_process(divmod, 7, 2) == (3, 1)


def test_an_object_keeps_its_state_between_calls() -> None:
    with closing(Remote(_Counter, 5)) as remote:
        assert remote.wait() is None
        remote.start("add", 1)
        remote.start("add", 2)
        assert [remote.wait(), remote.wait()] == [6, 8]


def test_a_failure_in_a_process_is_reported() -> None:
    with pytest.raises(ProcessError, match="ZeroDivisionError"):
        in_fresh_process(divmod, 1, 0)
    with closing(Remote(_Counter)) as remote, pytest.raises(ProcessError, match="'start'"):
        remote.wait()
    with closing(Remote(_Counter, 0)) as remote:
        remote.wait()
        remote.start("die")
        with pytest.raises(ProcessError, match="-9"):
            remote.wait()
