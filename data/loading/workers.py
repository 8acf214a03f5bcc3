"""Work spread over threads or processes, its results in order and computed ahead."""

import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import Self, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers:
    """A pool of threads or processes that ends with its `with` block.

    Threads start at once, share memory, and suit work that releases the interpreter lock for most
    of its time, as image decoding does. Processes take a quarter of a second to start and must be
    sent everything, but do not wait for each other.

    With a `count` of 1 the work is done in the calling thread, at the moment its result is asked
    for, unless `background` is set. `ahead` is the number of results that may be pending or ready
    before they are asked for, by default two per worker. `start` is called first in each process.

    Raises `ValueError` if `count` or `ahead` is below 1.
    """

    def __init__(
        self,
        count: int,
        *,
        processes: bool = False,
        background: bool = False,
        ahead: int | None = None,
        start: Callable[[], None] | None = None,
    ) -> None:
        self._ahead = 2 * count if ahead is None else ahead
        for name, value in (("workers", count), ("ahead", self._ahead)):
            if value < 1:
                raise ValueError(f"{name} is {value}: expected at least 1")
        self.in_processes = processes and count > 1
        self._pool: Executor | None = None
        if self.in_processes:
            # spawn: forking a process that has started threads (torch's, a progress bar's) can
            # deadlock
            self._pool = ProcessPoolExecutor(
                count, get_context("spawn"), initializer=_start_process, initargs=(start,)
            )
            self._pool.submit(int)  # starts all processes while the caller goes on
        elif count > 1 or background:
            self._pool = ThreadPoolExecutor(count)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)  # after an interruption items are pending

    def in_order(
        self, function: Callable[[Item], Result], items: Iterable[Item]
    ) -> Iterator[Result]:
        """Yield `function(item)` for every item in order.

        Items are drawn in the calling thread, and only as far ahead of the results as `ahead`
        allows. An exception raised by `function` is raised here in place of its result.

        Raises `ValueError` if a worker process is killed.
        """
        if self._pool is None:
            yield from map(function, items)
            return
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


def _start_process(start: Callable[[], None] | None) -> None:
    """Prepare a worker process: it ignores Ctrl-C, and ends when its parent is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None, "only a pool starts workers"

    def wait() -> None:
        parent.join()
        os._exit(1)

    Thread(target=wait, daemon=True).start()
    if start is not None:
        start()
