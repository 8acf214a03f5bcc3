"""Progress bars. Imports no torch, which takes seconds: the tools start at once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

ProgressCallback = Callable[[int, int], None]  # called now and then with (done, total)


@contextmanager
def progress_bar(label: str, unit: str) -> Iterator[ProgressCallback]:
    """Show a progress bar; yield the callback that moves it.

    Only on a terminal: in a file the bar would be one endless line with log messages in it. On a
    terminal, log messages appear on lines of their own above the bar.
    """
    with (
        logging_redirect_tqdm(),
        tqdm(desc=label, unit=unit, dynamic_ncols=True, leave=False, disable=None) as bar,
    ):

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show
