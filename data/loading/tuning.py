"""How fast records are read and decoded, how many threads that takes, and what to change.

A thread that loads is at any time decoding, ready but without a free core, or waiting for storage.
The times of the whole process's threads together say which of the three holds a run back.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from data.loading.decode import ImageSource, encoded_size

# More than any one device trains, with a tiny network: what loading has to keep up with.
FASTEST_TRAINING = {"cuda": 20_000.0, "cpu": 1_000.0}  # images a second
MOST_WORKERS = 32  # threads a rank; beyond, the interpreter lock is always taken
SECONDS_AHEAD = 0.25  # a stall of the storage that batches made ahead should cover
MOST_BYTES_AHEAD = 1 << 30  # of those batches, a rank

_PROBE_IMAGES, _PROBE_CHUNK, _PROBE_SECONDS = 192, 16, 0.3
_PROBE_SIZES = 32
_SCHEDULING = Path("/proc/thread-self/schedstat")  # Linux: nanoseconds run, nanoseconds queued


@dataclass
class Spent:
    """Where the time of loading threads went.

    Attributes:
        images: read and decoded.
        wall: seconds between start and end, summed over threads.
        decoding: seconds on a core.
        queued: seconds without a core while ready to run; 0 where the system does not tell.
    """

    images: int = 0
    wall: float = 0.0
    decoding: float = 0.0
    queued: float = 0.0

    @property
    def stored(self) -> float:
        """Seconds of waiting for storage: all that was neither running nor queued."""
        return max(0.0, self.wall - self.decoding - self.queued)

    def add(self, other: "Spent") -> None:
        """Add the time of other images."""
        self.images += other.images
        self.wall += other.wall
        self.decoding += other.decoding
        self.queued += other.queued


@contextmanager
def spending(images: int) -> Iterator[Spent]:
    """Measure what the block, which loads so many images in this thread, spends; known at its end.

    Costs some microseconds, so a batch is measured, not an image. Page faults of a memory-mapped
    file count as waiting for storage, wherever they happen.
    """
    wall, decoding, queued = time.perf_counter(), time.thread_time(), _queued_seconds()
    spent = Spent(images)
    yield spent
    spent.queued = _queued_seconds() - queued
    spent.decoding = time.thread_time() - decoding
    spent.wall = time.perf_counter() - wall


def _queued_seconds() -> float:
    try:
        return int(_SCHEDULING.read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


@dataclass(frozen=True)
class Pace:
    """What a rank's loader should do: `workers` threads, `prefetch` batches ahead, and why."""

    workers: int
    prefetch: int
    reason: str


def usable_cores() -> int:
    """Return how many cores this process may use, which in a container can be fewer than exist."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cores_of_a_rank(local_size: int) -> int:
    """Return the share of this machine's cores that one of its `local_size` ranks has."""
    return max(1, usable_cores() // local_size)


def probe(load: Callable[[NDArray[np.int64]], Spent], count: int) -> Spent:
    """Have some of `count` images loaded, from all over them; for 0.3 s at most.

    `load` is given places of images, int64 [b], and returns what it spent on them. The probe stops
    at an image that cannot be read: that is for its own batch to tell.
    """
    total = Spent()
    picked = _spread(count, _PROBE_IMAGES)
    for start in range(0, len(picked), _PROBE_CHUNK):
        try:
            spent = load(picked[start : start + _PROBE_CHUNK])
        except ValueError:
            break
        total.add(spent)
        if total.wall > _PROBE_SECONDS:
            break
    return total


def resized_share(source: ImageSource, count: int, image_size: int) -> float:
    """Return the share of the `count` images that have another size than `image_size`, by some."""
    sizes = []
    for index in _spread(count, _PROBE_SIZES).tolist():
        with suppress(ValueError, OSError):  # an unreadable image is for its own batch to tell
            sizes.append(encoded_size(source.encoded(index)))
    return sum(size != (image_size, image_size) for size in sizes) / max(len(sizes), 1)


def _spread(count: int, most: int) -> NDArray[np.int64]:
    """Return up to `most` of `count` places, spread evenly, as far from their neighbours."""
    places = np.linspace(0, count - 1, min(count, most)).astype(np.int64)
    return np.random.default_rng(0).permutation(places)


def choose_pace(
    workers: int | Literal["auto"],
    prefetch: int | Literal["auto"],
    spent: Spent,
    *,
    device_type: str,
    cores: int,
    batch_size: int,
    image_size: int,
) -> Pace:
    """Return how many threads a rank should load with and how far ahead, with the reason.

    `auto` takes as many threads as keep up with the fastest training of the device at the rate
    that `spent` shows (`probe`), and no more than the rank's `cores` can run: threads that wait
    for storage need no core meanwhile. The batches ahead, of `batch_size` images a rank, cover a
    stall of a quarter of a second, with two for each thread and within 1 GiB.
    """
    fastest = FASTEST_TRAINING[device_type]
    rate, decoding = 0.0, 1.0  # images a second of one thread, and the share that is decoding
    if spent.images:
        # Waiting for a core is this moment's, not the records'.
        busy = max(spent.wall - spent.queued, spent.decoding, 1e-9)
        rate = spent.images / busy
        decoding = max(spent.decoding / busy, 0.01)
    if workers == "auto":
        # On a GPU the training thread has a core for itself; on a CPU it shares all of them.
        free = max(1, cores - 1) if device_type == "cuda" else cores
        wanted = -(-fastest // rate) if rate else free
        threads = int(max(1, min(wanted, free / decoding, MOST_WORKERS)))
    else:
        threads = workers
    if prefetch == "auto":
        consumed = min(rate * threads, fastest)
        enough = max(2 * threads, round(consumed * SECONDS_AHEAD / batch_size))
        fit = MOST_BYTES_AHEAD // (batch_size * image_size * image_size * 3)
        ahead = max(1, min(enough, fit))
    else:
        ahead = prefetch
    measured = "no record could be measured"
    if rate:
        measured = f"one thread loads {rate:,.0f} images/s, {1 - decoding:.0%} of it reading"
    why = "" if "auto" in (workers, prefetch) else "as configured; "
    return Pace(
        threads,
        ahead,
        f"{_threads(threads)} a rank, {ahead} batches ahead: {why}{measured}; "
        f"{cores} cores a rank; a {device_type} device trains at most some {fastest:,.0f} images/s",
    )


def advice(spent: Spent, *, workers: int, cores: int, resized: float, remedy: str) -> str:
    """Return the one thing to change when training waits for batches, with what shows it.

    Args:
        spent: by the loading threads, lately.
        workers: threads of this rank.
        cores: of this rank.
        resized: share of the images that are not of the size they are trained at, 0 … 1.
        remedy: what to change when it is none of the things that are looked at here.
    """
    if not spent.images:
        return "no batch was loaded meanwhile: the storage does not answer; see whether it is there"
    wall = max(spent.wall, 1e-9)
    stored, queued = spent.stored / wall, spent.queued / wall
    if stored > 0.5:
        return (
            f"loading waits for storage in {stored:.0%} of its time: set data.order: blocks; if it "
            "is set already, copy the data to a faster disk"
        )
    if queued > 0.3:
        return (
            f"loading waits for a free core in {queued:.0%} of its time: give this job more cores, "
            "or stop what else runs here"
        )
    if workers < min(cores, MOST_WORKERS):
        return (
            f"{_threads(workers)} decode {spent.images / wall * workers:,.0f} images/s and this "
            f"rank has {cores} cores: set data.workers: {min(cores, MOST_WORKERS)}"
        )
    if resized > 0.5:
        return (
            f"{resized:.0%} of the images are resized while loading: pack them once at "
            "data.image_size with scripts/pack_records.py"
        )
    return (
        f"{_threads(workers)} decode {spent.images / wall * workers:,.0f} images/s, which is all "
        f"that {cores} cores give: {remedy}"
    )


def _threads(count: int) -> str:
    return f"{count} loader thread{'' if count == 1 else 's'}"
