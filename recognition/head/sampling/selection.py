"""The active classes of each step, chosen in the forward pass or ahead of it."""

import torch
from torch import Tensor

from recognition.head.placement.collectives import GatheredBatch
from recognition.head.placement.table import Table
from recognition.head.sampling.rule import ActiveSet, Sampler, SampleRequest, TableReader


class Selection:
    """Asks a sampling rule for the active classes of a step; arguments are `PartialFC`'s.

    Raises `ValueError` when the rate is out of range.
    """

    def __init__(
        self,
        sampler: Sampler,
        table: Table,
        embedding_size: int,
        *,
        shard: tuple[int, int],
        num_classes: int,
        rate: float,
        seed: int,
    ) -> None:
        if not 0.0 < rate <= 1.0:
            raise ValueError(f"sample_rate: {rate} found, expected 0 < sample_rate <= 1")
        self.sampler = sampler
        self._reader = TableReader(table, embedding_size)
        self._shard, self._num_classes = shard, num_classes
        self._rate, self._seed = rate, seed
        self._prefetched: tuple[int, Tensor, ActiveSet] | None = None

    def __call__(self, step: int, batch: GatheredBatch) -> ActiveSet:
        """Return the active classes: those of `prefetch` if step and labels are the same."""
        prefetched, self._prefetched = self._prefetched, None
        if prefetched is not None:
            for_step, label_N, active = prefetched
            if for_step == step and torch.equal(label_N, batch.all_labels):
                return active
        self._reader.table.release()
        return self.sampler(self._request(step, batch.all_labels, batch.unit))

    def prefetch(self, step: int, label_N: Tensor) -> None:
        """Choose a step's classes by the global batch's labels, and stage their rows."""
        active = self.sampler(self._request(step, label_N))
        self._prefetched = step, label_N, active
        self._reader.table.stage(active.rows)

    def _request(self, step: int, label_N: Tensor, unit_Nd: Tensor | None = None) -> SampleRequest:
        return SampleRequest(
            label_N, *self._shard, self._num_classes, self._rate, self._seed, step, unit_Nd,
            self._reader,
        )  # fmt: skip
