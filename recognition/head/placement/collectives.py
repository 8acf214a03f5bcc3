"""The head's collectives, for each placement of the class centres.

`ShardedCollectives`: every rank holds some classes and works on the global batch. A training step
makes one all-gather of the batch, two small ones of two numbers per sample, and one reduce-scatter
of the embedding gradient; one more all-gather, of one number, where batch sizes are not given.

`ReplicatedCollectives`: every rank holds all classes and works on its own samples (data parallel).
A step makes one all-gather of labels, small all-reduces of scalars, and one all-reduce of every
block of the centres' gradient, as much traffic as the table is large.

A single rank makes none.

Shapes: W ranks, b samples of this rank, N of the global batch, M that this rank works on (N or b),
R rows of a block, d embedding size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor

from recognition.distributed import shard_range
from recognition.head.choices import check

# Newer torch has new names for both and warns of the old ones on every rank.
_all_gather: Callable[..., Any] = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)
_reduce_scatter: Callable[..., Any] = getattr(
    dist, "reduce_scatter_single", dist.reduce_scatter_tensor
)


@dataclass(frozen=True)
class GatheredBatch:
    """The samples that this rank works on, and the labels of all."""

    unit: Tensor  # float32 [M, d], normalised embeddings
    norm: Tensor  # float32 [M], their norms before
    label: Tensor  # int64 [M], class ids
    all_labels: Tensor  # int64 [N], those of the global batch
    first: int  # position of this rank's sample 0 of M in the global batch
    sizes: Sequence[int]  # b of every rank


@dataclass(frozen=True)
class Collectives:
    """The ranks that train one table of class centres.

    What a placement does not override sends nothing but labels.
    """

    group: dist.ProcessGroup | None  # None for the default one
    rank: int  # of this process in the group
    size: int  # W
    replicated: ClassVar[bool] = False  # whether every rank holds all classes

    def shard(self, num_classes: int) -> tuple[int, int]:
        """Return the classes of this rank, `[start, stop)`."""
        if self.replicated:
            return 0, num_classes
        return shard_range(num_classes, self.size, self.rank)

    def batch_sizes(
        self, batch: int, device: torch.device, given: Sequence[int] | None
    ) -> Sequence[int]:
        """Return every rank's batch size: those given, or gathered, for which the host waits.

        Raises `ValueError` unless there is one size per rank, this rank's is `batch`, and not all
        are 0.
        """
        sizes = [batch] if given is None else list(given)
        if given is None and self.size > 1:
            size_1 = torch.tensor([batch], dtype=torch.int64, device=device)
            sizes = self._gather(size_1, [1] * self.size).tolist()
        fits = len(sizes) == self.size
        check(fits, "batch_sizes", sizes, f"one for each of {self.size} ranks")
        if sizes[self.rank] != batch:
            raise ValueError(
                f"batch_sizes: {sizes} found, but rank {self.rank} has {batch} samples; give every "
                "rank the same list of all ranks' sizes"
            )
        some = min(sizes) >= 0 and sum(sizes) > 0
        check(some, "batch_sizes", sizes, "at least 1 sample on some rank")
        return sizes

    def gather_batch(
        self, unit_bd: Tensor, norm_b: Tensor, label_b: Tensor, sizes: Sequence[int]
    ) -> GatheredBatch:
        """Return the samples that this rank works on, and all labels. Collective.

        Here its own: one all-gather of labels.
        """
        label_N = self.gather_labels(label_b, sizes)
        return GatheredBatch(unit_bd, norm_b, label_b, label_N, sum(sizes[: self.rank]), sizes)

    def gather_labels(self, label_b: Tensor, sizes: Sequence[int]) -> Tensor:
        """Return the labels of the global batch: int64 [N]. Collective: one all-gather."""
        return self._gather(label_b, sizes)

    def gather_statistics(self, statistics_kM: Tensor) -> Tensor:
        """Return the statistics of all parts of the classes: [W, k, M]; [1, k, M] of one part."""
        return statistics_kM.unsqueeze(0)

    def gather_all(self, value_M: Tensor, sizes: Sequence[int]) -> Tensor:
        """Return one number per sample of the global batch: [N]."""
        return value_M

    def sum_over_samples(self, total: Tensor) -> Tensor:
        """Return a sum over this rank's M samples as one over the global batch."""
        return total

    def sum_over_classes(self, total: Tensor) -> Tensor:
        """Return a sum over this rank's classes as one over all."""
        return total

    def max_over_samples(self, value_L: Tensor) -> Tensor:
        """Return the largest over the global batch of what is that of this rank's samples: [L]."""
        return value_L

    def scatter_gradient(self, gradient_Md: Tensor, sizes: Sequence[int]) -> Tensor:
        """Return the gradient of this rank's samples, by all classes: [b, d]."""
        return gradient_Md

    def local_part(self, value_M: Tensor, sizes: Sequence[int]) -> Tensor:
        """Return the numbers of this rank's samples: [b]."""
        return value_M

    @property
    def sums_blocks(self) -> bool:
        """Whether the ranks add up each block of the centres' gradient."""
        return self.replicated and self.size > 1

    def sum_block(self, gradient_Rd: Tensor) -> Tensor:
        """Return a block's gradient by the global batch."""
        return gradient_Rd

    def block_samples(self, sizes: Sequence[int]) -> int:
        """Return the M for which every rank plans its blocks."""
        return sum(sizes)

    def _gather(self, rows_b: Tensor, sizes: Sequence[int]) -> Tensor:
        """Return every rank's rows, by rank: [N, …] of [b, …]. Collective: one all-gather."""
        if self.size == 1:
            return rows_b
        padded = _padded(rows_b, max(sizes))
        gathered = padded.new_empty(self.size * padded.shape[0], *padded.shape[1:])
        _all_gather(gathered, padded.contiguous(), group=self.group)
        if min(sizes) == max(sizes):
            return gathered
        parts = zip(gathered.chunk(self.size), sizes, strict=True)
        return torch.cat([part[:size] for part, size in parts])

    def _sum(self, value: Tensor) -> Tensor:
        if self.size > 1:
            dist.all_reduce(value, group=self.group)
        return value


class ShardedCollectives(Collectives):
    """Every rank holds some of the classes and works on the samples of all ranks."""

    def gather_batch(
        self, unit_bd: Tensor, norm_b: Tensor, label_b: Tensor, sizes: Sequence[int]
    ) -> GatheredBatch:
        """Return the global batch. Collective: one all-gather over the group.

        A label is sent with its embedding, its 64 bits as two float32 columns that are never
        computed with.
        """
        if self.size == 1:
            return super().gather_batch(unit_bd, norm_b, label_b, sizes)
        label_columns = label_b.view(torch.float32).view(len(label_b), 2)
        packed = torch.cat([unit_bd, norm_b.unsqueeze(1), label_columns], dim=1)
        packed = self._gather(packed, sizes)
        # Always a copy: of one row the columns are contiguous already, at an unaligned address.
        label_columns = packed[:, -2:].clone(memory_format=torch.contiguous_format)
        label_N = label_columns.view(torch.int64).squeeze(1)
        unit_Nd, norm_N = packed[:, :-3].contiguous(), packed[:, -3].contiguous()
        return GatheredBatch(unit_Nd, norm_N, label_N, label_N, 0, sizes)

    def gather_statistics(self, statistics_kM: Tensor) -> Tensor:
        """Return every rank's statistics of its classes: [W, k, M]. Collective: one all-gather.

        Each rank then combines the same numbers in the same order, so that the results agree on
        all ranks to the last bit.
        """
        gathered = self._gather(statistics_kM, [len(statistics_kM)] * self.size)
        return gathered.view(self.size, *statistics_kM.shape)

    def sum_over_classes(self, total: Tensor) -> Tensor:
        """Return a sum over this rank's classes as one over all. Collective: one all-reduce."""
        return self._sum(total)

    def scatter_gradient(self, gradient_Md: Tensor, sizes: Sequence[int]) -> Tensor:
        """Sum over the ranks' classes and return this rank's samples of it: [b, d].

        Collective: one reduce-scatter (sum) over the group. gloo makes it from an all-reduce.
        """
        if self.size == 1:
            return gradient_Md
        longest = max(sizes)
        parts = torch.split(gradient_Md, list(sizes))
        if min(sizes) < longest:
            gradient_Md = torch.cat([_padded(part, longest) for part in parts])
        local = gradient_Md.new_empty(longest, gradient_Md.shape[1])
        _reduce_scatter(local, gradient_Md.contiguous(), group=self.group)
        return local[: sizes[self.rank]]

    def local_part(self, value_M: Tensor, sizes: Sequence[int]) -> Tensor:
        """Return the numbers of this rank's samples: [b]."""
        return torch.split(value_M, list(sizes))[self.rank]


class ReplicatedCollectives(Collectives):
    """Every rank holds all classes and works on its own samples."""

    replicated = True

    def gather_all(self, value_M: Tensor, sizes: Sequence[int]) -> Tensor:
        """Return one number per sample of the global batch: [N]. Collective: one all-gather."""
        return self._gather(value_M, sizes)

    def sum_over_samples(self, total: Tensor) -> Tensor:
        """Return a sum over this rank's samples as one over all. Collective: one all-reduce."""
        return self._sum(total)

    def max_over_samples(self, value_L: Tensor) -> Tensor:
        """Return the largest over the global batch: [L]. Collective: one all-reduce."""
        if self.size > 1:
            dist.all_reduce(value_L, op=dist.ReduceOp.MAX, group=self.group)
        return value_L

    def sum_block(self, gradient_Rd: Tensor) -> Tensor:
        """Return a block's gradient by the global batch. Collective: one all-reduce.

        Every rank gets the same bits, so the copies of the table stay equal.
        """
        return self._sum(gradient_Rd)

    def block_samples(self, sizes: Sequence[int]) -> int:
        """Return the M for which every rank plans its blocks: all must split their rows alike."""
        return max(sizes)


def _padded(rows: Tensor, count: int) -> Tensor:
    missing = count - rows.shape[0]
    if not missing:
        return rows
    return torch.cat([rows, rows.new_zeros(missing, *rows.shape[1:])])
