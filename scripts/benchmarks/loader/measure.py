"""Measures ways in turn, so that what else the machine does hits them alike."""

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass

from scripts.benchmarks.loader.ways import Way


@dataclass(frozen=True)
class Sample:
    """One way in one round.

    Attributes:
        images: that arrived.
        seconds: between the arrival of the first batch that counts and that of the last.
        cpu_seconds: of this process meanwhile, over all its threads.
    """

    images: int
    seconds: float
    cpu_seconds: float

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.images / self.seconds


def measure(
    ways: Sequence[Way], *, rounds: int, seconds: float, done: Callable[[], object]
) -> list[list[Sample]]:
    """Return the samples of each way: in every round, each runs for `seconds` once.

    Raises `ValueError` for fewer than one round or no time.
    """
    if rounds < 1 or seconds <= 0:
        raise ValueError(
            f"rounds is {rounds} and seconds {seconds}: expected at least 1 and more than 0"
        )
    samples: list[list[Sample]] = [[] for _ in ways]
    for _ in range(rounds):
        for way, taken in zip(ways, samples, strict=True):
            taken.append(measure_once(way, seconds))
            done()
    return samples


def measure_once(way: Way, seconds: float) -> Sample:
    """Start a way, let it come to run evenly, and count for `seconds`.

    What was made ahead before the clock starts is as much as what is left when it stops.
    """
    with closing(way.open()) as stream:
        for _ in range(way.ahead + 2):
            next(stream)
        images = 0
        started, cpu = time.perf_counter(), time.process_time()
        elapsed = 0.0
        while elapsed < seconds:
            images += next(stream)
            elapsed = time.perf_counter() - started
        return Sample(images, elapsed, time.process_time() - cpu)
