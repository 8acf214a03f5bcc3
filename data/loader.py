"""Batches of decoded images in the global order, the same whatever the number of ranks.

Shape legend: b samples of this rank's micro-batch, S image side, B global batch size.

Step s covers the positions `[s*B, (s+1)*B)` of the stream of a `SampleOrder`. Micro-batch m of the
step takes `part_range(B, accumulation, m)` of these, and rank r takes
`part_range(len(micro), world_size, r)` of the micro-batch. So which samples a step sees depends on
the order and the step only, and any step can be the first.

A batch is decoded as a whole into one uint8 array, by worker processes or by a background thread
of this process. Normalisation and augmentation happen later, on the device.
"""

import os
import pickle
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data.dataset import FaceDataset
from data.decode import decode_batch
from data.order import GlobalOrder, SampleOrder
from data.prefetch import prefetched
from recognition.sharding import part_range

MAX_AUTO_WORKERS = 8  # eight decode some 60,000 images/s, more than any one GPU trains

Anything = TypeVar("Anything")


@dataclass(frozen=True, eq=False)
class Batch:
    """One rank's samples of one micro-batch.

    Attributes:
        images: uint8 [b, 3, S, S], RGB, channels_last in memory.
        labels: int64 [b], class ids.
        indices: int64 [b], places of the samples in the dataset.
        epochs: int64 [b], the epoch that each sample belongs to, as the order counts them (a batch
            can span two); no sample comes twice with the same.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    epochs: Tensor

    def __len__(self) -> int:
        """Return b."""
        return len(self.labels)

    def to(self, device: torch.device) -> "Batch":
        """Return the batch with images and labels on `device`, asynchronously from pinned memory.

        Indices and epochs stay on the host, which decides by them without waiting for the device.
        """
        images, labels = (part.to(device, non_blocking=True) for part in (self.images, self.labels))
        return replace(self, images=images, labels=labels)

    def pin_memory(self) -> "Batch":
        """Return the batch in page-locked memory, from which copies to a GPU are asynchronous."""
        parts = (self.images, self.labels, self.indices, self.epochs)
        return Batch(*(part.pin_memory() for part in parts))


@dataclass(frozen=True, eq=False)
class BatchSpec:
    """Which samples a batch holds: `indices` and `epochs`, both int64 [b]."""

    indices: NDArray[np.int64]
    epochs: NDArray[np.int64]


class Loader:
    """Reads, decodes and delivers this rank's batches of any range of steps.

    Args:
        dataset: what to read.
        image_size: S; images of other sizes are resized.
        global_batch_size: B, samples a step over all ranks and micro-batches.
        accumulation: micro-batches a step.
        order: which sample is at each position; unless stated, `GlobalOrder` with seed 0.
        rank: this process, `0 <= rank < world_size`.
        world_size: number of processes.
        workers: worker processes; 0 decodes in one background thread of this process.
        pin_memory: deliver page-locked memory (needs CUDA).
        prefetch: batches that may be ready ahead.

    Raises `ValueError` for values out of range, an order of another number of samples, or when some
    micro-batch leaves a rank without a sample.
    """

    def __init__(
        self,
        dataset: FaceDataset,
        *,
        image_size: int,
        global_batch_size: int,
        accumulation: int = 1,
        order: SampleOrder | None = None,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        pin_memory: bool = False,
        prefetch: int = 4,
    ) -> None:
        _check_batch(global_batch_size, accumulation, world_size)
        if not 0 <= rank < world_size:
            raise ValueError(f"rank is {rank} of {world_size}: expected 0 <= rank < world_size")
        if workers < 0:
            raise ValueError(f"workers is {workers}: expected 0 or more processes")
        if pin_memory and not torch.cuda.is_available():
            raise ValueError("pin_memory is set and there is no CUDA device: set it to false")
        if prefetch < 1:
            raise ValueError(f"prefetch is {prefetch}: expected at least 1 batch")
        if order is None:
            order = GlobalOrder(len(dataset), seed=0)
        if order.num_samples != len(dataset):
            raise ValueError(
                f"the order is of {order.num_samples} samples, the dataset has {len(dataset)}: "
                "expected the same number; make the order for this dataset"
            )
        self.dataset = dataset
        self.image_size = image_size
        self.global_batch_size = global_batch_size
        self.accumulation = accumulation
        self.rank = rank
        self.world_size = world_size
        self.workers = workers
        self.pin_memory = pin_memory
        self.prefetch = prefetch
        self._order = order

    def spec(self, step: int, micro: int) -> BatchSpec:
        """Return which samples this rank has in micro-batch `micro` of step `step`.

        It costs as much for any step, and reads nothing: who reads ahead asks for steps to come.
        """
        begin, end = part_range(self.global_batch_size, self.accumulation, micro)
        first, last = part_range(end - begin, self.world_size, self.rank)
        start = step * self.global_batch_size + begin
        return BatchSpec(*self._order.order(start + first, start + last))

    def batches(self, first_step: int, last_step: int) -> Iterator[Batch]:
        """Yield the batches of steps `[first_step, last_step)`, `accumulation` for each step.

        Workers live as long as the iterator: they end when it is exhausted, closed or fails. What
        goes wrong while reading is raised here as it was raised there (`BadImage` for an image
        that cannot be decoded), at the turn of its batch.
        """
        if not 0 <= first_step <= last_step:
            raise ValueError(f"steps [{first_step}, {last_step}): expected 0 <= first <= last")
        specs = (
            self.spec(step, micro)
            for step in range(first_step, last_step)
            for micro in range(self.accumulation)
        )
        if self.workers:
            return _from_workers(self, specs)
        decode = partial(_decode, self.dataset, self.image_size, self.pin_memory)
        return prefetched(decode, specs, self.prefetch)


def choose_workers(
    requested: int | Literal["auto"], *, device_type: str, local_size: int
) -> tuple[int, str]:
    """Return the number of worker processes a rank should use, and a sentence with the reason.

    `auto` takes none on a CPU, where a background thread decodes far faster than a CPU trains, and
    on a GPU this machine's cores spread over its `local_size` ranks, less one for the rank itself.
    Raises `ValueError` for a negative number.
    """
    if requested != "auto":
        if requested < 0:
            raise ValueError(f"workers is {requested}: expected 0 or more, or auto")
        return requested, f"{requested} loader workers a rank, as configured"
    if device_type == "cpu":
        return 0, "no loader workers: a background thread decodes faster than a CPU trains"
    cores = _usable_cores()
    workers = max(1, min(MAX_AUTO_WORKERS, cores // local_size - 1))
    return workers, f"{workers} loader workers a rank: {cores} cores for {local_size} ranks"


def _usable_cores() -> int:
    """Return how many cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _check_batch(global_batch_size: int, accumulation: int, world_size: int) -> None:
    if accumulation < 1 or world_size < 1:
        raise ValueError(
            f"accumulation is {accumulation} and world_size {world_size}: both must be at least 1"
        )
    if global_batch_size < accumulation * world_size:
        raise ValueError(
            f"global_batch_size is {global_batch_size}: {accumulation} micro-batches on "
            f"{world_size} ranks need at least {accumulation * world_size}, one sample each; "
            "raise global_batch_size, or lower accumulation or the number of ranks"
        )


def _decode(dataset: FaceDataset, image_size: int, pin: bool, spec: BatchSpec) -> Batch:
    """Read and decode one batch."""
    pixels = decode_batch(dataset, spec.indices, image_size)  # uint8 [b, S, S, 3]
    batch = Batch(
        images=torch.from_numpy(pixels).permute(0, 3, 1, 2),
        labels=torch.from_numpy(dataset.labels[spec.indices]),
        indices=torch.from_numpy(spec.indices),
        epochs=torch.from_numpy(spec.epochs),
    )
    return batch.pin_memory() if pin else batch


def _from_workers(loader: Loader, specs: Iterator[BatchSpec]) -> Iterator[Batch]:
    """Yield batches that worker processes decode, raising what a worker hands over."""
    results: DataLoader[Batch | _Failure] = DataLoader(
        _Decoder(loader.dataset, loader.image_size),
        batch_size=None,
        sampler=_Once(specs),
        num_workers=loader.workers,
        collate_fn=_unchanged,
        pin_memory=loader.pin_memory,
        prefetch_factor=-(-loader.prefetch // loader.workers),
        # Its own generator: starting workers must not draw from the run's random numbers.
        generator=torch.Generator(),
    )
    for result in results:
        if isinstance(result, _Failure):
            raise result.error
        yield result


class _Once:
    """The specs as what `DataLoader` calls a sampler: an iterable, consumed once."""

    def __init__(self, specs: Iterator[BatchSpec]) -> None:
        self.specs = specs

    def __iter__(self) -> Iterator[BatchSpec]:
        return self.specs


class _Decoder(Dataset["Batch | _Failure"]):
    """Runs in the workers: makes a batch of a spec, or says why not."""

    def __init__(self, dataset: FaceDataset, image_size: int) -> None:
        self.dataset = dataset
        self.image_size = image_size

    def __getitem__(self, spec: BatchSpec) -> "Batch | _Failure":
        try:
            return _decode(self.dataset, self.image_size, False, spec)
        except Exception as error:
            return _Failure(_portable(error))


@dataclass(frozen=True)
class _Failure:
    """What a worker raised, as a value: `DataLoader` would bury its message in a traceback."""

    error: Exception


def _portable(error: Exception) -> Exception:
    """Return the error itself if it survives the way between processes, else its text."""
    try:
        copy = pickle.loads(pickle.dumps(error))
    except Exception:
        copy = None
    if str(copy) != str(error):
        error = RuntimeError(f"{type(error).__name__}: {error}")
    if not isinstance(error, ValueError):  # a bug: whoever mends it wants the place
        error.add_note("In a loader worker:\n" + traceback.format_exc())
    return error


def _unchanged(value: Anything) -> Anything:
    return value
