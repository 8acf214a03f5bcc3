"""Batches of decoded images in the global order, the same whatever the number of ranks.

Shape legend: b samples of this rank's micro-batch, S image side, B global batch size.

Step s covers the positions `[s*B, (s+1)*B)` of the stream of a `SampleOrder`. Micro-batch m of the
step takes `part_range(B, accumulation, m)` of these, and rank r takes
`part_range(len(micro), world_size, r)` of the micro-batch. So which samples a step sees depends on
the order and the step only, and any step can be the first.

A batch is decoded as a whole, by a `BatchDecoder` in one of some background threads of this
process. Decoding holds the interpreter lock for less than a tenth of its time, so threads do as
much as processes would, and batches need not travel, nor indexes exist more than once.
Normalisation and augmentation happen later, on the device.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.datasets.dataset import FaceDataset, Prefetching
from data.loading.bad_records import BadRecord, BadRecords
from data.loading.cpu_decoder import CpuDecoder, MakeDecoder
from data.loading.tuning import Spent, advice, resized_share, usable_cores
from data.loading.workers import Workers
from data.order.orders import GlobalOrder, SampleOrder
from recognition.distributed import part_range

# Positions of the order that are looked up together, for all ranks where that is several steps: a
# hundred cost nearly as much as a thousand.
AT_ONCE = 4096
REMEMBERED = 64  # batches whose cost is kept, to tell what holds a starved run back


@dataclass(frozen=True, eq=False)
class Batch:
    """One rank's samples of one micro-batch.

    Attributes:
        images: uint8 [b, 3, S, S], RGB, channels_last in memory; on a GPU if the decoder left them
            there, and then to be used after `to` only.
        labels: int64 [b], class ids.
        indices: int64 [b], places of the samples in the dataset.
        epochs: int64 [b], the epoch that each sample belongs to, as the order counts them (a batch
            can span two); no sample comes twice with the same.
        bad: the records that other samples were taken for.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    epochs: Tensor
    bad: tuple[BadRecord, ...] = ()

    def __len__(self) -> int:
        """Return b."""
        return len(self.labels)

    def to(self, device: torch.device) -> "Batch":
        """Return the batch with images and labels on `device`, asynchronously from pinned memory.

        Indices and epochs stay on the host, which decides by them without waiting for the device.
        """
        images, labels = (part.to(device, non_blocking=True) for part in (self.images, self.labels))
        if images.is_cuda:  # decoded there on another stream, which must not use the memory early
            images.record_stream(torch.cuda.current_stream(device))
        return replace(self, images=images, labels=labels)


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
        workers: background threads that decode, a batch each.
        pin_memory: deliver page-locked memory (needs CUDA).
        prefetch: batches that may be ready ahead, or in work.
        cores: of this rank, for `advice`; None: all that this process may run on.
        replacement_seed: with it, another sample takes the place of a record that cannot be read
            or decoded, with its own label and index; None: such a record is raised.
        max_bad_share: the share of bad samples above which `report` raises.
        decoder: makes what decodes, from the arguments above; unless stated, on the CPU.

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
        workers: int = 1,
        pin_memory: bool = False,
        prefetch: int = 4,
        cores: int | None = None,
        replacement_seed: int | None = None,
        max_bad_share: float = 0.001,
        decoder: MakeDecoder = CpuDecoder,
    ) -> None:
        _check_batch(global_batch_size, accumulation, world_size)
        if not 0 <= rank < world_size:
            raise ValueError(f"rank is {rank} of {world_size}: expected 0 <= rank < world_size")
        if workers < 1:
            raise ValueError(f"workers is {workers}: expected at least 1 thread")
        if pin_memory and not torch.cuda.is_available():
            raise ValueError("pin_memory is set and there is no CUDA device: set it to false")
        if prefetch < 1:
            raise ValueError(f"prefetch is {prefetch}: expected at least 1 batch")
        if not 0 < max_bad_share <= 1:
            raise ValueError(f"max_bad_share is {max_bad_share}: expected above 0, at most 1")
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
        self.cores = cores or usable_cores()
        self._lately: deque[Spent] = deque(maxlen=REMEMBERED)
        self.replacement_seed = replacement_seed
        self._decoder = decoder(
            dataset,
            image_size=image_size,
            pin_memory=pin_memory,
            replacement_seed=replacement_seed,
        )
        self._bad = BadRecords(len(dataset), max_bad_share)
        self._order = order

    def spec(self, step: int, micro: int) -> BatchSpec:
        """Return which samples this rank has in micro-batch `micro` of step `step`.

        It costs as much for any step, and reads nothing: who reads ahead asks for steps to come.
        """
        return BatchSpec(*self._order.order(*self._positions(step, micro)))

    def _positions(self, step: int, micro: int) -> tuple[int, int]:
        """Return the positions `[start, stop)` of the stream that this rank takes."""
        begin, end = part_range(self.global_batch_size, self.accumulation, micro)
        first, last = part_range(end - begin, self.world_size, self.rank)
        start = step * self.global_batch_size + begin
        return start + first, start + last

    def batches(self, first_step: int, last_step: int) -> Iterator[Batch]:
        """Yield the batches of steps `[first_step, last_step)`, `accumulation` for each step.

        Threads live as long as the iterator: they end when it is exhausted, closed or fails. What
        goes wrong while reading is raised here (`BadImage` for an image that cannot be decoded),
        at the turn of its batch.
        """
        if not 0 <= first_step <= last_step:
            raise ValueError(f"steps [{first_step}, {last_step}): expected 0 <= first <= last")
        specs = self._specs(first_step, last_step)
        return self._decoded(_announced(self.dataset, self._order.neighbours_follow, specs))

    def _specs(self, first_step: int, last_step: int) -> Iterator[BatchSpec]:
        """Yield what `spec` returns for each micro-batch of the steps."""
        at_once = AT_ONCE // self.global_batch_size
        if at_once < 2:
            for step in range(first_step, last_step):
                for micro in range(self.accumulation):
                    yield self.spec(step, micro)
            return
        for start in range(first_step, last_step, at_once):
            stop = min(start + at_once, last_step)
            first = start * self.global_batch_size
            indices, epochs = self._order.order(first, stop * self.global_batch_size)
            for step in range(start, stop):
                for micro in range(self.accumulation):
                    part = slice(*(place - first for place in self._positions(step, micro)))
                    yield BatchSpec(indices[part], epochs[part])

    def _decoded(self, specs: Iterator[BatchSpec]) -> Iterator[Batch]:
        ahead = max(self.prefetch, self.workers)
        with (
            closing(self._decoder),
            Workers(self.workers, background=True, ahead=ahead) as workers,
        ):
            for batch, spent in workers.in_order(self._load, specs):
                self._lately.append(spent)
                self._bad.add(batch.bad)  # counts when it is delivered, not when it is read
                yield batch

    def _load(self, spec: BatchSpec) -> tuple[Batch, Spent]:
        """Read and decode one batch; return it and what it took."""
        decoded = self._decoder.decode(spec.indices, spec.epochs)
        labels = self.dataset.labels[decoded.indices].astype(np.int64, copy=False)
        batch = Batch(
            images=decoded.images,
            labels=self._tensor(labels),
            indices=self._tensor(decoded.indices),
            epochs=self._tensor(spec.epochs),
            bad=decoded.bad,
        )
        return batch, decoded.spent

    def _tensor(self, values: NDArray[np.int64]) -> Tensor:
        tensor = torch.from_numpy(values)
        return tensor.pin_memory() if self.pin_memory else tensor

    def report(self, step: int) -> dict[str, float]:
        """Return what the log should say of the data of the first `step` steps.

        Where bad records are replaced that is the number of `bad_records`, over all ranks, which
        must call this at the same steps. Raises `BadRecordsError` when they are too many.
        """
        if self.replacement_seed is None:
            return {}
        return {"bad_records": self._bad.agree(step * self.global_batch_size)}

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold, as of the last `report`: the bad records known."""
        return {"bad_records": self._bad.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned, on any number of ranks."""
        self._bad.restore(state.get("bad_records", []))

    def advice(self) -> str:
        """Return the one thing to change if training waits for batches.

        It follows from what the last `REMEMBERED` batches took.
        """
        spent = Spent()
        for one in self._lately:
            spent.add(one)
        resized = resized_share(self.dataset, len(self.dataset), self.image_size)
        return advice(
            spent,
            workers=self.workers,
            cores=self.cores,
            resized=resized,
            remedy=self._decoder.remedy,
        )


def _announced(
    dataset: FaceDataset, whole_blocks: bool, specs: Iterable[BatchSpec]
) -> Iterator[BatchSpec]:
    """Yield the specs, each told to a dataset that can fetch its images while others are read."""
    for spec in specs:
        if isinstance(dataset, Prefetching):
            dataset.prefetch(spec.indices, whole_blocks=whole_blocks)
        yield spec


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
