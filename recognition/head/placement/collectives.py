"""The head's collectives, for each placement of the class centres.

`ShardedExchange`: every rank holds some classes and works on the global batch. A training step
makes one all-gather of the batch, two small ones of two numbers a sample each, and one
reduce-scatter of the embedding gradient; where the ranks' batch sizes are not told, one all-gather
of a single number more.

`ReplicatedExchange`: every rank holds all classes and works on its own samples (data parallel).
A step makes one all-gather of labels, small all-reduces of scalars, and one all-reduce of every
block of the centres' gradient, as much traffic as the table is large.

A world of one makes none of them.

Shapes: W ranks, b samples of this rank, N of the global batch, M that this rank works on (N or b),
d embedding size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

# Newer torch has new names for both and warns of the old ones on every rank.
_all_gather: Callable[..., Any] = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)
_reduce_scatter: Callable[..., Any] = getattr(
    dist, "reduce_scatter_single", dist.reduce_scatter_tensor
)


@dataclass(frozen=True)
class Batch:
    """The samples that this rank works on, and the labels of all.

    Attributes:
        unit: float32 [M, d], normalised embeddings.
        norm: float32 [M], their norms before.
        label: int64 [M], global class ids.
        all_labels: int64 [N], those of the global batch.
        first: place of this rank's sample 0 of M in the global batch.
    """

    unit: torch.Tensor
    norm: torch.Tensor
    label: torch.Tensor
    all_labels: torch.Tensor
    first: int


@dataclass(frozen=True)
class Exchange:
    """The ranks that train one table of class centres.

    Attributes:
        group: their process group; None for the default one.
        rank: this process's number in it.
        size: W, how many they are.
    """

    group: dist.ProcessGroup | None
    rank: int
    size: int

    def batch_sizes(self, size: int, device: torch.device) -> list[int]:
        """Gather every rank's batch size. The host waits for it."""
        if self.size == 1:
            return [size]
        sizes_W = torch.empty(self.size, dtype=torch.int64, device=device)
        mine = torch.tensor([size], dtype=torch.int64, device=device)
        _all_gather(sizes_W, mine, group=self.group)
        return [int(count) for count in sizes_W.tolist()]

    def _gather(self, rows_b: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
        """Return every rank's rows, by rank: [N, …] of [b, …]. Collective: one all-gather."""
        if self.size == 1:
            return rows_b
        padded = _padded(rows_b, max(sizes))
        gathered = padded.new_empty(self.size * padded.shape[0], *padded.shape[1:])
        _all_gather(gathered, padded.contiguous(), group=self.group)
        parts = zip(gathered.chunk(self.size), sizes, strict=True)
        return torch.cat([part[:size] for part, size in parts])

    def _sum(self, value: torch.Tensor) -> torch.Tensor:
        if self.size > 1:
            dist.all_reduce(value, group=self.group)
        return value


class ShardedExchange(Exchange):
    """Every rank holds some of the classes and works on the samples of all ranks."""

    def gather_batch(
        self,
        unit_bd: torch.Tensor,
        norm_b: torch.Tensor,
        label_b: torch.Tensor,
        sizes: Sequence[int],
    ) -> Batch:
        """Return the global batch. Collective: one all-gather over the group.

        A label travels beside its embedding, its 64 bits as two float32 columns that nobody
        computes with.
        """
        if self.size == 1:
            return Batch(unit_bd, norm_b, label_b, label_b, 0)
        label_columns = label_b.view(torch.float32).view(len(label_b), 2)
        packed = torch.cat([unit_bd, norm_b.unsqueeze(1), label_columns], dim=1)
        packed = self._gather(packed, sizes)
        # A copy in any case: of one row the columns are contiguous as they stand, at an odd place.
        label_columns = packed[:, -2:].clone(memory_format=torch.contiguous_format)
        label_N = label_columns.view(torch.int64).squeeze(1)
        return Batch(packed[:, :-3].contiguous(), packed[:, -3].contiguous(), label_N, label_N, 0)

    def gather_labels(self, label_b: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
        """Return the labels of the global batch: int64 [N]. Collective: one all-gather."""
        return self._gather(label_b, sizes)

    def gather_statistics(self, statistics_kM: torch.Tensor) -> torch.Tensor:
        """Return every rank's statistics of its classes: [W, k, M]. Collective: one all-gather.

        Each rank then combines the same numbers in the same order, so that the results agree on
        all ranks to the last bit.
        """
        if self.size == 1:
            return statistics_kM.unsqueeze(0)
        # gloo wants the ranks' tensors one after the other, not stacked.
        gathered = statistics_kM.new_empty(self.size * len(statistics_kM), statistics_kM.shape[1])
        _all_gather(gathered, statistics_kM.contiguous(), group=self.group)
        return gathered.view(self.size, *statistics_kM.shape)

    def everyones(self, value_M: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
        """Return a number a sample of the global batch, [N]: here they are all at hand."""
        return value_M

    def over_samples(self, total: torch.Tensor) -> torch.Tensor:
        """Return a sum over this rank's M samples as one over the global batch."""
        return total

    def over_classes(self, total: torch.Tensor) -> torch.Tensor:
        """Return a sum over this rank's classes as one over all. Collective: one all-reduce."""
        return self._sum(total)

    def scatter_gradient(self, gradient_Md: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
        """Sum over the ranks' classes and return this rank's samples of it: [b, d].

        Collective: one reduce-scatter (sum) over the group. gloo makes it from an all-reduce.
        """
        if self.size == 1:
            return gradient_Md
        longest = max(sizes)
        parts = torch.split(gradient_Md, list(sizes))
        if min(sizes) < longest:
            gradient_Md = torch.cat([_padded(part, longest) for part in parts])
        mine = gradient_Md.new_empty(longest, gradient_Md.shape[1])
        _reduce_scatter(mine, gradient_Md.contiguous(), group=self.group)
        return mine[: sizes[self.rank]]

    def mine(self, value_M: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
        """Return this rank's own samples' part of a number a sample: [b]."""
        return torch.split(value_M, list(sizes))[self.rank]

    def centre_gradient(self, gradient_Rd: torch.Tensor) -> torch.Tensor:
        """Return a block's gradient by the global batch, which is what this rank made."""
        return gradient_Rd

    def width(self, sizes: Sequence[int]) -> int:
        """Return M for which every rank plans its blocks."""
        return sum(sizes)


class ReplicatedExchange(Exchange):
    """Every rank holds all classes and works on its own samples."""

    def gather_batch(
        self,
        unit_bd: torch.Tensor,
        norm_b: torch.Tensor,
        label_b: torch.Tensor,
        sizes: Sequence[int],
    ) -> Batch:
        """Return this rank's samples, and all labels. Collective: one all-gather of labels."""
        first = sum(sizes[: self.rank])
        return Batch(unit_bd, norm_b, label_b, self.gather_labels(label_b, sizes), first)

    def gather_labels(self, label_b: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
        """Return the labels of the global batch: int64 [N]. Collective: one all-gather."""
        return self._gather(label_b, sizes)

    def gather_statistics(self, statistics_kM: torch.Tensor) -> torch.Tensor:
        """Return this rank's statistics, which are of all classes already: [1, k, M]."""
        return statistics_kM.unsqueeze(0)

    def everyones(self, value_M: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
        """Return a number a sample of the global batch: [N]. Collective: one all-gather."""
        return self._gather(value_M, sizes)

    def over_samples(self, total: torch.Tensor) -> torch.Tensor:
        """Return a sum over this rank's samples as one over all. Collective: one all-reduce."""
        return self._sum(total)

    def over_classes(self, total: torch.Tensor) -> torch.Tensor:
        """Return a sum over all classes, which every rank has."""
        return total

    def scatter_gradient(self, gradient_Md: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
        """Return this rank's samples' gradient, which is whole already: [b, d]."""
        return gradient_Md

    def mine(self, value_M: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
        """Return this rank's own samples' part, which is all that it has: [b]."""
        return value_M

    def centre_gradient(self, gradient_Rd: torch.Tensor) -> torch.Tensor:
        """Return a block's gradient by the global batch. Collective: one all-reduce.

        Every rank gets the same bits, so the copies of the table stay equal.
        """
        return self._sum(gradient_Rd)

    def width(self, sizes: Sequence[int]) -> int:
        """Return M for which every rank plans its blocks: the ranks must cut alike."""
        return max(sizes)


AnyExchange = ShardedExchange | ReplicatedExchange


def _padded(rows: torch.Tensor, count: int) -> torch.Tensor:
    missing = count - rows.shape[0]
    if not missing:
        return rows
    return torch.cat([rows, rows.new_zeros(missing, *rows.shape[1:])])
