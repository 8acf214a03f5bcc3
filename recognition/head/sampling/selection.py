"""The active classes of each step, chosen in the forward pass or ahead of it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from recognition.head.choices import check
from recognition.head.placement.collectives import GatheredBatch
from recognition.head.sampling.rule import ActiveSet, Sampler, SampleRequest, TableReader


@dataclass
class Selection:
    """Asks a sampling rule for the active classes of a step; fields are `PartialFC`'s arguments.

    Raises `ValueError` when the rate is out of range.
    """

    sampler: Sampler
    reader: TableReader
    shard: tuple[int, int]
    num_classes: int
    rate: float
    seed: int
    _prefetched: tuple[int, Tensor, ActiveSet] | None = None

    def __post_init__(self) -> None:
        check(0.0 < self.rate <= 1.0, "sample_rate", self.rate, "0 < sample_rate <= 1")

    def __call__(self, step: int, batch: GatheredBatch) -> ActiveSet:
        """Return the active classes: those of `prefetch` if step and labels are the same."""
        prefetched, self._prefetched = self._prefetched, None
        if prefetched is not None:
            for_step, label_N, active = prefetched
            if for_step == step and torch.equal(label_N, batch.all_labels):
                return active
        self.reader.table.release()
        return self.sampler(self._request(step, batch.all_labels, batch.unit))

    def prefetch(self, step: int, label_N: Tensor) -> None:
        """Choose a step's classes by the global batch's labels, and stage their rows."""
        active = self.sampler(self._request(step, label_N))
        self._prefetched = step, label_N, active
        self.reader.table.stage(active.rows)

    def _request(self, step: int, label_N: Tensor, unit_Nd: Tensor | None = None) -> SampleRequest:
        settings = *self.shard, self.num_classes, self.rate, self.seed
        return SampleRequest(label_N, *settings, step, unit_Nd, self.reader)
