"""The head's collectives: batch in, softmax statistics across, embedding gradient back.

A training step makes one all-gather of the batch, one small all-gather of three numbers a sample
and one reduce-scatter of the embedding gradient; where the ranks' batch sizes are not told, one
all-gather of a single number more. A world of one makes none.

Shapes: W ranks, b samples of this rank, N samples of the global batch, d embedding size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Exchange:
    """The ranks that share one table of class centres.

    Attributes:
        group: their process group; None for the default one.
        rank: this process's number in it.
        size: W, how many they are.
    """

    group: dist.ProcessGroup | None
    rank: int
    size: int

    @classmethod
    def over(cls, group: dist.ProcessGroup | None) -> "Exchange":
        """Return the exchange over `group`; a world of one where no group was ever started."""
        if not dist.is_initialized():
            return cls(None, 0, 1)
        return cls(group, dist.get_rank(group), dist.get_world_size(group))

    def batch_sizes(self, size: int, device: torch.device) -> list[int]:
        """Gather every rank's batch size. The host waits for it."""
        if self.size == 1:
            return [size]
        sizes_W = torch.empty(self.size, dtype=torch.int64, device=device)
        mine = torch.tensor([size], dtype=torch.int64, device=device)
        dist.all_gather_into_tensor(sizes_W, mine, group=self.group)
        return [int(count) for count in sizes_W.tolist()]

    def gather_batch(
        self, unit_bd: torch.Tensor, label_b: torch.Tensor, sizes: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return float32 [N, d] and int64 [N]: every rank's embeddings and labels, by rank.

        Collective: one all-gather over the group. A label travels beside its embedding, its 64
        bits as two float32 columns that nobody computes with.
        """
        if self.size == 1:
            return unit_bd, label_b
        label_columns = label_b.view(torch.float32).view(len(label_b), 2)
        packed = _padded(torch.cat([unit_bd, label_columns], dim=1), max(sizes))
        gathered = packed.new_empty(self.size * packed.shape[0], packed.shape[1])
        dist.all_gather_into_tensor(gathered, packed, group=self.group)
        gathered = torch.cat(
            [part[:size] for part, size in zip(gathered.chunk(self.size), sizes, strict=True)]
        )
        label_N = gathered[:, -2:].contiguous().view(torch.int64).squeeze(1)
        return gathered[:, :-2].contiguous(), label_N

    def gather_statistics(self, statistics: torch.Tensor) -> torch.Tensor:
        """Return every rank's `statistics` stacked: [W, *shape]. Collective: one all-gather.

        Each rank then combines the same numbers in the same order, so that the results agree on
        all ranks to the last bit.
        """
        if self.size == 1:
            return statistics.unsqueeze(0)
        # gloo wants the ranks' tensors one after the other, not stacked.
        gathered = statistics.new_empty(self.size * len(statistics), *statistics.shape[1:])
        dist.all_gather_into_tensor(gathered, statistics.contiguous(), group=self.group)
        return gathered.view(self.size, *statistics.shape)

    def scatter_gradient(self, gradient_Nd: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
        """Sum `gradient_Nd` over the ranks and return this rank's samples of it: [b, d].

        Collective: one reduce-scatter (sum) over the group. gloo makes it from an all-reduce.
        """
        if self.size == 1:
            return gradient_Nd
        longest = max(sizes)
        parts = torch.split(gradient_Nd, list(sizes))
        if min(sizes) < longest:
            gradient_Nd = torch.cat([_padded(part, longest) for part in parts])
        mine = gradient_Nd.new_empty(longest, gradient_Nd.shape[1])
        dist.reduce_scatter_tensor(mine, gradient_Nd.contiguous(), group=self.group)
        return mine[: sizes[self.rank]]

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """Return `value` summed over the ranks. Collective: one all-reduce over the group."""
        if self.size > 1:
            dist.all_reduce(value, group=self.group)
        return value


def _padded(rows: torch.Tensor, count: int) -> torch.Tensor:
    missing = count - rows.shape[0]
    return torch.nn.functional.pad(rows, (0, 0, 0, missing)) if missing else rows
