"""Placement: where the class centres live, and which ranks' samples they meet there."""

from dataclasses import dataclass

import torch
import torch.distributed as dist

from recognition.distributed import shard_range
from recognition.head.choices import choose
from recognition.head.kernels.workspace import prefer_huge_pages
from recognition.head.optim.row_optimizers import RowOptimizer
from recognition.head.placement.collectives import AnyExchange, ReplicatedExchange, ShardedExchange
from recognition.head.placement.initial import initial_centres
from recognition.head.placement.table import HostTable, Table


@dataclass(frozen=True)
class Placement:
    """Where centres live.

    Attributes:
        exchange: how the ranks talk.
        on_host: whether they stay in CPU memory, and only the active rows travel.
    """

    exchange: type[ShardedExchange] | type[ReplicatedExchange]
    on_host: bool = False


PLACEMENTS: dict[str, Placement] = {
    "sharded": Placement(ShardedExchange),
    "replicated": Placement(ReplicatedExchange),
    "host": Placement(ShardedExchange, on_host=True),
}


@dataclass(frozen=True)
class Placed:
    """The centres in their place.

    Attributes:
        exchange: how the ranks talk.
        shard: classes `[start, stop)` of this rank.
        table: their centres and optimizer state.
    """

    exchange: AnyExchange
    shard: tuple[int, int]
    table: Table

    @property
    def replicated(self) -> bool:
        """Whether every rank holds all classes."""
        return isinstance(self.exchange, ReplicatedExchange)

    @property
    def sums_centres(self) -> bool:
        """Whether the ranks add up each block of the centres' gradient."""
        return self.replicated and self.exchange.size > 1


def place(
    name: str,
    num_classes: int,
    width: int,
    *,
    seed: int,
    optimizer: RowOptimizer,
    group: dist.ProcessGroup | None,
    device: torch.device,
    stage_bytes: int,
) -> Placed:
    """Return the initial centres of `num_classes` classes, `width` numbers each, in their place.

    A world of one is assumed where no process group was ever started. Raises `ValueError` for an
    unknown name.
    """
    placement = choose(PLACEMENTS, name, "placement")
    exchange: AnyExchange = placement.exchange(None, 0, 1)
    if dist.is_initialized():
        ranks = dist.get_rank(group), dist.get_world_size(group)
        exchange = placement.exchange(group, *ranks)
    shard = (0, num_classes)
    if isinstance(exchange, ShardedExchange):
        shard = shard_range(num_classes, exchange.size, exchange.rank)
    storage = torch.device("cpu") if placement.on_host else device
    weight = initial_centres(*shard, width, seed, storage)
    state = {
        name: prefer_huge_pages(tensor)
        for name, tensor in optimizer.state(weight.shape[0], width, storage).items()
    }
    if placement.on_host:
        table: Table = HostTable(weight, state, device=device, stage_bytes=stage_bytes)
    else:
        table = Table(weight, state)
    return Placed(exchange, shard, table)
