"""How fast records are read and decoded, how many threads that needs, and what to change.

At any time a loading thread is decoding, or ready but without a free core, or waiting for storage.
The times of all loading threads together show which of the three slows a run down.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from data.datasets.sources import ImageSource
from data.loading.decode import encoded_size

# What "auto" aims at, in images per second: a choice, meant to be more than a device trains. rtiny,
# the smallest network, trains 220 images/s on two cores of an AMD EPYC.
TARGET_RATE = {"cuda": 20_000.0, "cpu": 1_000.0}
MOST_WORKERS = 32  # threads per rank; with more, the interpreter lock is always taken
SECONDS_AHEAD = 0.25  # a stall of the storage that the prefetched batches should cover
MOST_BYTES_AHEAD = 1 << 30  # of prefetched batches per rank

_PROBE_IMAGES, _PROBE_CHUNK, _PROBE_SECONDS = 192, 16, 0.3
_PROBE_SIZES = 32
_LARGE = 4.0  # ratio of pixels from which on packing mainly saves bytes
_SCHEDULING = Path("/proc/thread-self/schedstat")  # Linux: nanoseconds run, nanoseconds queued


@dataclass
class Timings:
    """Where the time of loading threads went, in seconds."""

    images: int = 0  # read and decoded
    wall: float = 0.0  # between start and end, summed over threads
    decoding: float = 0.0  # on a core
    queued: float = 0.0  # ready to run but without a core; 0 where the system does not report it

    @property
    def storage(self) -> float:
        """Seconds of waiting for storage: all that was neither running nor queued."""
        return max(0.0, self.wall - self.decoding - self.queued)

    def __add__(self, other: "Timings") -> "Timings":
        return Timings(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


@contextmanager
def measure_time(images: int) -> Iterator[Timings]:
    """Measure the block, which loads this many images in this thread; filled in at its end.

    Costs a few microseconds, so measure batches rather than images. Page faults of a memory-mapped
    file count as waiting for storage.
    """
    wall, decoding, queued = time.perf_counter(), time.thread_time(), _queued_seconds()
    timings = Timings(images)
    yield timings
    timings.queued = _queued_seconds() - queued
    timings.decoding = time.thread_time() - decoding
    timings.wall = time.perf_counter() - wall


def _queued_seconds() -> float:
    try:
        return int(_SCHEDULING.read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


def usable_cores() -> int:
    """Return how many cores this process may use, which in a container can be fewer than exist."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def probe(load: Callable[[NDArray[np.int64]], Timings], count: int) -> Timings:
    """Load some of `count` images, spread over all of them, for at most 0.3 s.

    `load` is called with indices of images, int64 [b], and returns how long they took. The probe
    stops at an image that cannot be read, which is reported when its own batch is loaded.
    """
    total = Timings()
    indices = _spread(count, _PROBE_IMAGES)
    for start in range(0, len(indices), _PROBE_CHUNK):
        try:
            total += load(indices[start : start + _PROBE_CHUNK])
        except ValueError:
            break
        if total.wall > _PROBE_SECONDS:
            break
    return total


@dataclass(frozen=True)
class SourceSizes:
    """How large images are before they are resized to S x S pixels for training; means."""

    resized: float = 0.0  # fraction of the images that are of another size
    width: float = 0.0
    height: float = 0.0
    ratio: float = 1.0  # pixels of an image per pixel of training


def source_sizes(source: ImageSource, count: int, image_size: int) -> SourceSizes:
    """Return the sizes of a few of the `count` images, from their headers, for S = `image_size`."""
    found = []
    for index in _spread(count, _PROBE_SIZES).tolist():
        with suppress(ValueError, OSError):  # reported when its own batch is loaded
            found.append(encoded_size(source.encoded(index)))
    if not found:
        return SourceSizes()
    sizes = np.array(found, np.float64)
    width, height = sizes.mean(axis=0).tolist()
    resized = float((sizes != image_size).any(axis=1).mean())
    return SourceSizes(resized, width, height, float(sizes.prod(axis=1).mean()) / image_size**2)


def _spread(count: int, most: int) -> NDArray[np.int64]:
    """Return up to `most` of `count` indices, evenly spread, in random order."""
    indices = np.linspace(0, count - 1, min(count, most)).astype(np.int64)
    return np.random.default_rng(0).permutation(indices)


@dataclass(frozen=True)
class WorkerPlan:
    """How a rank should load: `workers` threads, `prefetch` batches ahead, and the reason."""

    workers: int
    prefetch: int
    reason: str


def plan_workers(
    workers: int | Literal["auto"],
    prefetch: int | Literal["auto"],
    timings: Timings,
    *,
    device_type: str,
    cores: int,
    batch_size: int,
    image_size: int,
) -> WorkerPlan:
    """Return how many threads a rank should load with and how far ahead, with the reason.

    "auto" for `workers` is as many threads as load the `TARGET_RATE` of the device, at the rate of
    `timings` (see `probe`), but no more than the rank's `cores` can run: threads that
    wait for storage need no core meanwhile. "auto" for `prefetch` is as many batches of
    `batch_size` images as cover a stall of a quarter of a second: at least two per thread, and at
    most 1 GiB.
    """
    target = TARGET_RATE[device_type]
    rate, decoding = 0.0, 1.0  # images per second of one thread; fraction of its time on a core
    if timings.images:
        # Waiting for a core says something about this moment, not about the records.
        busy = max(timings.wall - timings.queued, timings.decoding, 1e-9)
        rate = timings.images / busy
        decoding = max(timings.decoding / busy, 0.01)
    if workers == "auto":
        # On a GPU the training thread has a core for itself; on a CPU it shares all of them.
        free = max(1, cores - 1) if device_type == "cuda" else cores
        wanted = -(-target // rate) if rate else free
        threads = int(max(1, min(wanted, free / decoding, MOST_WORKERS)))
    else:
        threads = workers
    if prefetch == "auto":
        consumed = min(rate * threads, target)
        enough = max(2 * threads, round(consumed * SECONDS_AHEAD / batch_size))
        fit = MOST_BYTES_AHEAD // (batch_size * image_size * image_size * 3)
        batches = max(1, min(enough, fit))
    else:
        batches = prefetch
    measured = "no record could be measured"
    if rate:
        measured = f"one thread loads {rate:,.0f} images/s, {1 - decoding:.0%} of it reading"
    why = "" if "auto" in (workers, prefetch) else "as configured; "
    return WorkerPlan(
        threads,
        batches,
        f"{_threads(threads)} per rank, {batches} batches ahead: {why}{measured}; {cores} cores "
        f"per rank; the aim for a {device_type} device is {target:,.0f} images/s",
    )


def hint(
    timings: Timings,
    *,
    workers: int,
    cores: int,
    sizes: SourceSizes,
    pack_hint: str,
    decoder_hint: str,
) -> str:
    """Return the one thing to change when training waits for batches, with the evidence.

    `timings` are those of the batches loaded lately by this rank's `workers` on its `cores`.
    `pack_hint` says how to pack the images at the size of training, `decoder_hint` what to change
    if decoding itself is too slow.
    """
    if not timings.images:
        return "no batch was loaded meanwhile: the storage does not answer; check that it is there"
    wall = max(timings.wall, 1e-9)
    storage, queued = timings.storage / wall, timings.queued / wall
    decoding = timings.decoding / wall
    # First, because nothing else gains as much: decoding and resizing an image of 128x128 pixels
    # takes seven times as long as decoding one of 112x112. Only a large one is also slow to read.
    if sizes.resized > 0.5 and (storage <= 0.5 or sizes.ratio >= _LARGE):
        return (
            f"{sizes.resized:.0%} of the images are resized while loading, from "
            f"{sizes.width:,.0f}x{sizes.height:,.0f} pixels on average; each takes "
            f"{wall / timings.images * 1e3:,.1f} ms, {decoding:.0%} of it decoding and resizing "
            f"and {storage:.0%} reading: {pack_hint}"
        )
    if storage > 0.5:
        return (
            f"loading waits for storage {storage:.0%} of its time: set data.order: blocks; if it "
            "is set already, copy the data to a faster disk"
        )
    if queued > 0.3:
        return (
            f"loading waits for a free core {queued:.0%} of its time: give this job more cores, or "
            "stop what else runs here"
        )
    rate = f"{_threads(workers)} decode {timings.images / wall * workers:,.0f} images/s"
    most = min(cores, MOST_WORKERS)
    if workers < most:
        return f"{rate} and this rank has {cores} cores: set data.workers: {most}"
    return f"{rate}, which is all that {cores} cores can do: {decoder_hint}"


def _threads(count: int) -> str:
    return f"{count} loader thread{'' if count == 1 else 's'}"
