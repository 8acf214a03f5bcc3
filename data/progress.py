"""A bar for long work. Without torch, which takes seconds to import: the tools start at once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm


@contextmanager
def progress_bar(label: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar for a piece of work that reports `(done, total)` now and then.

    Only on a terminal: in a file a bar is one endless line, to whose end messages would be added.
    What is logged meanwhile has lines of its own above the bar.
    """
    with (
        logging_redirect_tqdm(),
        tqdm(desc=label, unit=unit, dynamic_ncols=True, leave=False, disable=None) as bar,
    ):

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show
