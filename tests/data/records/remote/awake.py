"""A time limit that counts only the time in which this process can run."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

TICK = 0.05


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fail if the block takes longer than `seconds`, not counting suspensions of the process."""
    done = threading.Event()
    ticks = 0

    def count() -> None:
        nonlocal ticks
        while not done.wait(TICK):
            ticks += 1

    clock = threading.Thread(target=count, daemon=True)
    clock.start()
    try:
        yield
    finally:
        done.set()
        clock.join()
    assert ticks * TICK < seconds, f"took {ticks * TICK:.0f} s, expected less than {seconds} s"
