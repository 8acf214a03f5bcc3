"""Work done ahead in one background thread."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetched(
    function: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[Result]:
    """Yield `function(item)` for every item in order, computed up to `ahead` items early.

    One background thread does the work; it pays where `function` releases the interpreter lock,
    as image decoding does. What `function` raises is raised here at its turn. Closing the iterator
    waits for the item in work and drops the others. Raises `ValueError` if `ahead` is below 1.
    """
    if ahead < 1:
        raise ValueError(f"ahead is {ahead}: expected at least 1 item")
    return _prefetched(function, items, ahead)


def _prefetched(
    function: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[Result]:
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as pool:
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
