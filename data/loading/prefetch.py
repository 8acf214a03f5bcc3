"""Work done ahead in background threads."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetched(
    function: Callable[[Item], Result], items: Iterable[Item], ahead: int, *, threads: int = 1
) -> Generator[Result]:
    """Yield `function(item)` for every item in order, computed up to `ahead` items early.

    `threads` background threads do the work, each an item at a time; that pays where `function`
    releases the interpreter lock, as image decoding does. What `function` raises is raised here
    at its turn. Closing the iterator waits for the items in work and drops the others. Raises
    `ValueError` if `ahead` or `threads` is below 1.
    """
    if ahead < 1:
        raise ValueError(f"ahead is {ahead}: expected at least 1 item")
    if threads < 1:
        raise ValueError(f"threads is {threads}: expected at least 1")
    return _prefetched(function, items, ahead, threads)


def _prefetched(
    function: Callable[[Item], Result], items: Iterable[Item], ahead: int, threads: int
) -> Generator[Result]:
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="prefetch") as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
