"""Batches of decoded images in the global order, the same on any number of ranks.

Shape legend: b samples of this rank's micro-batch, S image side, B global batch size.

Step s covers the positions `[s*B, (s+1)*B)` of the stream of a `SampleOrder`. Micro-batch m of the
step takes `part_range(B, accumulation, m)` of these, and rank r takes
`part_range(len(micro), world_size, r)` of the micro-batch. So the samples of a step depend only on
the order and the step, and a run can start at any step.

A `BatchDecoder` decodes each batch as a whole in one of several background threads. Decoding holds
the interpreter lock for less than a tenth of its time, so threads are as fast as processes would
be, and neither must batches be copied between processes nor indexes be loaded in each.
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
from data.loading.tuning import Timings, hint, source_sizes, usable_cores
from data.loading.workers import Workers
from data.order.orders import GlobalOrder, SampleOrder
from recognition.distributed import part_range

# Positions of the order that are looked up together, for all ranks, if that is several steps: a
# hundred take nearly as long as a thousand.
AT_ONCE = 4096
RECENT = 64  # batches whose timings are kept for `Loader.hint`


@dataclass(frozen=True, eq=False)
class Batch:
    """One rank's samples of one micro-batch.

    If the decoder left the images on a GPU, call `to` before using them. `epochs` are as the order
    counts them (a batch can span two); a sample comes at most once per epoch.
    """

    images: Tensor  # uint8 [b, 3, S, S], RGB, channels_last in memory
    labels: Tensor  # int64 [b], class ids
    indices: Tensor  # int64 [b], of the samples in the dataset
    epochs: Tensor  # int64 [b]
    bad: tuple[BadRecord, ...] = ()  # the records that were replaced by other samples

    def __len__(self) -> int:
        """Return b."""
        return len(self.labels)

    def to(self, device: torch.device) -> "Batch":
        """Return the batch with images and labels on `device`, asynchronously from pinned memory.

        Indices and epochs stay on the host, which reads them without waiting for the device.
        """
        images, labels = (part.to(device, non_blocking=True) for part in (self.images, self.labels))
        if images.is_cuda:  # decoded on another stream, which must not reuse the memory too early
            images.record_stream(torch.cuda.current_stream(device))
        return replace(self, images=images, labels=labels)


@dataclass(frozen=True, eq=False)
class BatchSpec:
    """The samples of a batch: `indices` and `epochs`, both int64 [b]."""

    indices: NDArray[np.int64]
    epochs: NDArray[np.int64]


class Loader:
    """Reads, decodes and delivers this rank's batches for any range of steps.

    With `replacement_seed`, another sample takes the place of a record that cannot be read or
    decoded, with its own label and index; with None, such a record is an error.

    Raises `ValueError` for values out of range, for an order of another number of samples, and if
    a micro-batch has no sample for some rank.
    """

    def __init__(
        self,
        dataset: FaceDataset,
        *,
        image_size: int,  # images of other sizes are resized
        global_batch_size: int,  # over all ranks and micro-batches
        accumulation: int = 1,  # micro-batches per step
        order: SampleOrder | None = None,  # by default `GlobalOrder` with seed 0
        rank: int = 0,
        world_size: int = 1,
        workers: int = 1,  # background threads, each of which decodes a batch at a time
        pin_memory: bool = False,  # deliver page-locked memory (needs CUDA)
        prefetch: int = 4,  # batches that may be pending or ready ahead
        cores: int | None = None,  # of this rank, for `hint`; by default all that it may use
        replacement_seed: int | None = None,
        max_bad_share: float = 0.001,  # the fraction of bad samples above which `report` raises
        decoder: MakeDecoder = CpuDecoder,
        pack_hint: str = "pack them once with scripts/pack_records.py --size",  # for `hint`
    ) -> None:
        counts = {"accumulation": accumulation, "world_size": world_size}
        for name, value in {**counts, "workers": workers, "prefetch": prefetch}.items():
            if value < 1:
                raise ValueError(f"{name} is {value}: expected at least 1")
        if global_batch_size < accumulation * world_size:
            raise ValueError(
                f"global_batch_size is {global_batch_size}: {accumulation} micro-batches on "
                f"{world_size} ranks need at least {accumulation * world_size}, one sample each; "
                "raise global_batch_size, or lower accumulation or the number of ranks"
            )
        if not 0 <= rank < world_size:
            raise ValueError(f"rank is {rank} of {world_size}: expected 0 <= rank < world_size")
        if pin_memory and not torch.cuda.is_available():
            raise ValueError("pin_memory is set but there is no CUDA device: set it to false")
        if order is None:
            order = GlobalOrder(len(dataset), seed=0)
        if order.num_samples != len(dataset):
            raise ValueError(
                f"the order has {order.num_samples} samples and the dataset {len(dataset)}: "
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
        self._pack_hint = pack_hint
        self._recent: deque[Timings] = deque(maxlen=RECENT)
        self.replacement_seed = replacement_seed
        settings = {"image_size": image_size, "pin_memory": pin_memory}
        self._decoder = decoder(dataset, **settings, replacement_seed=replacement_seed)
        self._bad = BadRecords(len(dataset), max_bad_share)
        self._order = order

    def spec(self, step: int, micro: int) -> BatchSpec:
        """Return the samples of this rank in micro-batch `micro` of step `step`.

        Nothing is read, and any step takes the same time.
        """
        return BatchSpec(*self._order.order(*self._positions(step, micro)))

    def _positions(self, step: int, micro: int) -> tuple[int, int]:
        """Return this rank's positions `[start, stop)` of the stream."""
        begin, end = part_range(self.global_batch_size, self.accumulation, micro)
        first, last = part_range(end - begin, self.world_size, self.rank)
        start = step * self.global_batch_size + begin
        return start + first, start + last

    def batches(self, first_step: int, last_step: int) -> Iterator[Batch]:
        """Yield the batches of steps `[first_step, last_step)`, `accumulation` for each step.

        The threads end when the iterator is exhausted, closed or fails. An error in reading a batch
        is raised in its place (`BadImage` for an image that cannot be decoded, `ValueError` for a
        label that is not a class of the dataset).
        """
        if not 0 <= first_step <= last_step:
            raise ValueError(f"steps [{first_step}, {last_step}): expected 0 <= first <= last")
        batches = self._decoded(self._announced(self._specs(first_step, last_step)))
        return self._checked(batches, first_step)

    def _specs(self, first_step: int, last_step: int) -> Iterator[BatchSpec]:
        """Yield `spec` of each micro-batch of the steps."""
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
                    part = slice(*(position - first for position in self._positions(step, micro)))
                    yield BatchSpec(indices[part], epochs[part])

    def _decoded(self, specs: Iterator[BatchSpec]) -> Iterator[Batch]:
        ahead = max(self.prefetch, self.workers)
        with (
            closing(self._decoder),
            Workers(self.workers, background=True, ahead=ahead) as workers,
        ):
            for batch, timings in workers.in_order(self._load, specs):
                self._recent.append(timings)
                self._bad.add(batch.bad)  # now that the batch is delivered, not when it is read
                yield batch

    def _checked(self, batches: Iterator[Batch], first_step: int) -> Iterator[Batch]:
        """Yield the batches unless one has a label that the head has no centre for."""
        classes = self.dataset.num_classes
        with closing(batches):  # type: ignore[type-var]
            for number, batch in enumerate(batches):
                labels = batch.labels.numpy()
                wrong = np.flatnonzero((labels < 0) | (labels >= classes))
                if len(wrong) > 0:
                    raise ValueError(
                        f"step {first_step + number // self.accumulation}: "
                        f"{self.dataset.describe(int(batch.indices[wrong[0]]))} has label "
                        f"{labels[wrong[0]]}, expected 0 to {classes - 1}; correct num_classes or "
                        "the labels of the dataset"
                    )
                yield batch

    def _announced(self, specs: Iterable[BatchSpec]) -> Iterator[BatchSpec]:
        """Yield the specs, whose images the dataset starts to fetch if it can do so early."""
        for spec in specs:
            if isinstance(self.dataset, Prefetching):
                self.dataset.prefetch(spec.indices, whole_blocks=self._order.neighbours_follow)
            yield spec

    def _load(self, spec: BatchSpec) -> tuple[Batch, Timings]:
        decoded = self._decoder.decode(spec.indices, spec.epochs)
        labels = self.dataset.classes(decoded.indices)
        batch = Batch(
            images=decoded.images,
            labels=self._tensor(labels),
            indices=self._tensor(decoded.indices),
            epochs=self._tensor(spec.epochs),
            bad=decoded.bad,
        )
        return batch, decoded.timings

    def _tensor(self, values: NDArray[np.int64]) -> Tensor:
        tensor = torch.from_numpy(values)
        return tensor.pin_memory() if self.pin_memory else tensor

    def report(self, step: int) -> dict[str, float]:
        """Return numbers for the log about the data of the first `step` steps.

        If bad records are replaced, `bad_records` is their number over all ranks, which must call
        this at the same steps. Raises `BadRecordsError` when there are too many.
        """
        if self.replacement_seed is None:
            return {}
        return {"bad_records": self._bad.agree(step * self.global_batch_size)}

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold: the bad records known at the last `report`."""
        return {"bad_records": self._bad.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned, on any number of ranks."""
        self._bad.restore(state.get("bad_records", []))

    def hint(self) -> str:
        """Return the one thing to change if training waits for batches, by the recent timings."""
        return hint(
            sum(self._recent, Timings()),
            workers=self.workers,
            cores=self.cores,
            sizes=source_sizes(self.dataset, len(self.dataset), self.image_size),
            pack_hint=self._pack_hint,
            decoder_hint=self._decoder.hint,
        )
