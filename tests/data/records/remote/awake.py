"""A bound on time that a machine which stops its processes now and then does not break."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

TICK = 0.05


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fail if the block takes longer than `seconds` of the time in which this process may run."""
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
