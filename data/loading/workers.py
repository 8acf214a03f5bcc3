"""Work spread over threads or processes, its results in order."""

import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from threading import Thread
from types import TracebackType
from typing import Self, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers:
    """Some threads, or processes, that work until the block ends; a context manager.

    Threads start at once, share memory, and serve work that holds the interpreter's lock for a
    small part of its time. Processes take a quarter of a second to start and must be passed
    everything, but do not wait for each other.

    Args:
        count: how many; with 1 the work is done in this thread.
        processes: whether they are processes.
        ahead: how many items there may be a worker of which no result was taken yet.

    Attributes:
        elsewhere: whether the work is done in other processes.

    Raises `ValueError` for less than 1.
    """

    def __init__(self, count: int, *, processes: bool, ahead: int = 2) -> None:
        if count < 1:
            raise ValueError(f"workers is {count}: expected at least 1")
        self.elsewhere = processes and count > 1
        self._ahead = ahead * count
        self._pool: Executor | None = None
        if self.elsewhere:
            # spawn: forking a process that has started threads (torch's, a progress bar's) can
            # deadlock
            context = get_context("spawn")
            self._pool = ProcessPoolExecutor(count, context, initializer=_follow_parent)
            self._pool.submit(int)  # starts them all, while this thread goes on
        elif count > 1:
            self._pool = ThreadPoolExecutor(count)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)  # what is left after an interruption

    def in_order(
        self, function: Callable[[Item], Result], items: Iterable[Item]
    ) -> Iterator[Result]:
        """Yield `function(item)` for every item in order.

        Items are taken in this thread, few ahead of their results, however many there are. What
        `function` raises is raised here at its turn.

        Raises `ValueError` if a worker process is killed.
        """
        return map(function, items) if self._pool is None else self._pooled(function, items)

    def _pooled(
        self, function: Callable[[Item], Result], items: Iterable[Item]
    ) -> Iterator[Result]:
        assert self._pool is not None
        pending: deque[Future[Result]] = deque()
        try:
            for item in items:
                pending.append(self._pool.submit(function, item))
                if len(pending) > self._ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool as error:
            raise ValueError(
                "a worker process was killed, most often for lack of memory: use fewer workers"
            ) from error
        finally:
            for future in pending:
                future.cancel()


def _follow_parent() -> None:
    """Have this worker leave Ctrl-C to its parent, and end when that is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None, "a worker is somebody's"

    def wait() -> None:
        parent.join()
        os._exit(1)

    Thread(target=wait, daemon=True).start()
