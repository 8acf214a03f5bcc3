"""The active classes of each step, chosen in the forward pass or ahead of it.

Shapes: b samples of this rank, M that it works on, N of the global batch, d embedding size.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from recognition.head.choices import check
from recognition.head.online_softmax.scores import Draw
from recognition.head.placement.collectives import Collectives, GatheredBatch
from recognition.head.rows import RowSet, remember_union
from recognition.head.sampling.background import Background, record
from recognition.head.sampling.rule import ActiveSet, Sampler, SampleRequest, TableReader


@dataclass(frozen=True)
class _Seen:
    """Labels as they were given, to be recognised without a wait for a GPU.

    Labels in CPU memory are compared by value. On a GPU it is the same memory, which `labels` holds
    on to, and no torch operation has changed it since.
    """

    labels: Tensor  # [b]; in CPU memory a copy
    memory: tuple[object, ...]

    @classmethod
    def of(cls, labels: Tensor) -> "_Seen":
        on_cpu = labels.device.type == "cpu"
        return cls(labels.clone() if on_cpu else labels, () if on_cpu else _memory(labels))

    def same(self, labels: Tensor) -> bool:
        """Return whether these are the same labels; no where that is not known."""
        if labels.device != self.labels.device:
            return False
        if labels.device.type == "cpu":
            return torch.equal(self.labels, labels)
        return not labels.is_inference() and self.memory == _memory(labels)


def _memory(labels: Tensor) -> tuple[object, ...]:
    """Return where a tensor's numbers are, and how often they were changed."""
    layout = labels.storage_offset(), labels.shape, labels.stride(), labels.dtype
    version = None if labels.is_inference() else labels._version
    return labels.untyped_storage()._cdata, *layout, version


@dataclass(frozen=True)
class _Ahead:
    """A set that was chosen, or is being chosen, before its forward pass."""

    step: int
    seen: _Seen  # this rank's labels
    all_labels: Tensor  # int64 [N], of the global batch
    active: Callable[[], ActiveSet]


@dataclass
class Selection:
    """Asks a sampling rule for the active classes of a step; fields are `PartialFC`'s arguments.

    Raises `ValueError` when the rate is out of range.
    """

    sampler: Sampler
    reader: TableReader
    shard: tuple[int, int]
    num_classes: int
    rate: float | Callable[[int], float]
    seed: int
    _background: Background = field(init=False)
    _ahead: _Ahead | None = None
    _so_far: tuple[int, RowSet] | None = None  # a step, and all rows chosen ahead for it

    def __post_init__(self) -> None:
        if not callable(self.rate):
            self.rate_at(0)
        self._background = Background(self.reader.table.device)

    def __getstate__(self) -> dict[str, object]:
        """Copy all but what is being chosen, which belongs to a thread."""
        return {**self.__dict__, "_ahead": None, "_so_far": None}

    @property
    def can_prefetch(self) -> bool:
        """Whether there is anything to do before the embeddings are known."""
        known = not self.sampler.uses_embeddings
        return known and (self.sampler.counts or self.reader.table.stages)

    def __call__(
        self, step: int, batch: GatheredBatch, labels: Tensor
    ) -> tuple[ActiveSet, GatheredBatch]:
        """Return the active classes, those of `prefetch` if step and labels are the same.

        With them the batch that they are for. On a GPU a rank knows without a wait only that its
        own labels, int [b], are those of `prefetch`. Should another rank's not be, the embeddings
        returned are NaN, and so is the loss on every rank: nothing is computed with wrong rows.
        """
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            active = ahead.active()
            if ahead.step == step and self._is_for(ahead, batch, labels):
                return self._checked(ahead, active, batch)
        self.reader.table.release()
        active = self.sampler(self._request(step, batch.all_labels, batch.unit))
        self.reader.table.prepare(active.rows)
        return active, batch

    def draw(self, step: int, batch: GatheredBatch, collectives: Collectives) -> Draw | None:
        """Return what chooses the rows that get a gradient, None if all active ones do."""
        if not torch.is_grad_enabled():
            return None
        return self.sampler.drawn(self._request(step, batch.all_labels), collectives)

    def prefetch(self, step: int, label_N: Tensor, labels: Tensor) -> None:
        """Begin to choose a step's classes by the global batch's labels, and to stage their rows.

        `labels` are this rank's, as the forward pass will be given them.
        """
        self.reader.table.finish()
        request, background = self._request(step, label_N), self._background

        def choose() -> ActiveSet:
            active = self.sampler(request)
            self.reader.table.prepare(active.rows)
            self.reader.table.stage(active.rows)
            if background.parallel:
                self._join(step, active.rows)
            return active

        started = background.start(choose, [label_N])
        self._ahead = _Ahead(step, _Seen.of(labels), label_N, started)

    def _is_for(self, ahead: _Ahead, batch: GatheredBatch, labels: Tensor) -> bool:
        """Return whether a set is for this batch, as far as this rank knows without a wait."""
        if batch.all_labels.device.type == "cpu":
            return torch.equal(ahead.all_labels, batch.all_labels)
        return ahead.all_labels.shape == batch.all_labels.shape and ahead.seen.same(labels)

    def _checked(
        self, ahead: _Ahead, active: ActiveSet, batch: GatheredBatch
    ) -> tuple[ActiveSet, GatheredBatch]:
        """Return a set that was chosen ahead, and the batch, NaN if it is another one."""
        if self._background.parallel:
            stream = torch.cuda.current_stream(self.reader.table.device)
            record([active.positive_classes, active.overflow, *active.rows.tensors()], stream)
        by_value = batch.all_labels.device.type == "cpu"
        if by_value or len(batch.sizes) == 1:
            return active, batch
        return active, nan_unless_for(ahead.all_labels, batch)

    def _join(self, step: int, rows: RowSet) -> None:
        """Make the union with the step's earlier sets, which its update will ask for."""
        if self._so_far is not None and self._so_far[0] == step:
            table = self.reader.table
            rows = remember_union(self._so_far[1], rows, len(table.weight))
            if table.stages:
                rows.host_index  # noqa: B018  # copied here, so that the update need not wait
        self._so_far = step, rows

    def rate_at(self, step: int) -> float:
        """Return the sample rate of a step. Raises `ValueError` for one that is out of range."""
        rate = self.rate(step) if callable(self.rate) else self.rate
        check(0.0 < rate <= 1.0, "sample_rate", rate, "0 < sample_rate <= 1")
        return rate

    def _request(self, step: int, label_N: Tensor, unit_Nd: Tensor | None = None) -> SampleRequest:
        settings = *self.shard, self.num_classes, self.rate_at(step), self.seed
        return SampleRequest(label_N, *settings, step, unit_Nd, self.reader)


def nan_unless_for(label_N: Tensor, batch: GatheredBatch) -> GatheredBatch:
    """Return the batch if it has these labels, int64 [N], else with NaN embeddings; no wait."""
    same = (label_N == batch.all_labels).all()
    return replace(batch, unit=batch.unit.where(same, math.nan))
