"""A bar for long work. Without torch, which takes seconds to import: the tools start at once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm


@contextmanager
def progress_bar(label: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar for a piece of work that reports `(done, total)` now and then."""
    with tqdm(desc=label, unit=unit, dynamic_ncols=True, leave=False) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show
