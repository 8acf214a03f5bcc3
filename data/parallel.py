"""Work spread over processes, its results in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Iterator[Result]:
    """Yield `function(item)` for every item in order, made by `workers` processes.

    Few items are in work at a time, however many there are. With 1 the work is done in this
    process. What `function` raises is raised here at its turn. Processes, not threads: what takes
    microseconds an item, as reading a small file does, gets slower the more threads wait for the
    interpreter's lock (measured on two cores: seven times slower).

    Raises `ValueError` for less than 1 worker, and if a worker is killed.
    """
    if workers < 1:
        raise ValueError(f"workers is {workers}: expected at least 1")
    return map(function, items) if workers == 1 else _in_order(function, items, workers)


def _in_order(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Iterator[Result]:
    pending: deque[Future[Result]] = deque()
    # spawn: forking a process that has started threads (torch's, a progress bar's) can deadlock
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > 3 * workers:
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
