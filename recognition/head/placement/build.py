"""The placements by name, as a config writes them: where the class centres live."""

from dataclasses import dataclass

import torch
import torch.distributed as dist

from recognition.distributed import shard_range
from recognition.head.choices import choose
from recognition.head.kernels.workspace import prefer_huge_pages
from recognition.head.optim.row_optimizers import RowOptimizer
from recognition.head.placement.collectives import (
    Collectives,
    ReplicatedCollectives,
    ShardedCollectives,
)
from recognition.head.placement.host_table import HostTable
from recognition.head.placement.initial import initial_centres
from recognition.head.placement.table import Table


@dataclass(frozen=True)
class Placement:
    """Where centres live.

    Attributes:
        collectives: what passes between the ranks.
        on_host: whether they stay in CPU memory, and only the active rows travel.
    """

    collectives: type[Collectives]
    on_host: bool = False


PLACEMENTS: dict[str, Placement] = {
    "sharded": Placement(ShardedCollectives),
    "replicated": Placement(ReplicatedCollectives),
    "host": Placement(ShardedCollectives, on_host=True),
}


@dataclass(frozen=True)
class PlacedTable:
    """The centres of one rank.

    Attributes:
        collectives: what passes between the ranks.
        shard: classes `[start, stop)` of this rank.
        table: their centres and optimizer state.
    """

    collectives: Collectives
    shard: tuple[int, int]
    table: Table


def create_table(
    placement: str,
    num_classes: int,
    width: int,
    *,
    seed: int,
    optimizer: RowOptimizer,
    group: dist.ProcessGroup | None,
    device: torch.device,
    stage_bytes: int,
) -> PlacedTable:
    """Return this rank's table, with initial centres of `width` numbers per class.

    A single rank is assumed where no process group was started. Raises `ValueError` for an
    unknown placement.
    """
    chosen = choose(PLACEMENTS, placement, "placement")
    collectives = chosen.collectives(None, 0, 1)
    if dist.is_initialized():
        collectives = chosen.collectives(group, dist.get_rank(group), dist.get_world_size(group))
    shard = (0, num_classes)
    if not collectives.replicated:
        shard = shard_range(num_classes, collectives.size, collectives.rank)
    storage = torch.device("cpu") if chosen.on_host else device
    weight = initial_centres(*shard, width, seed, storage)
    state = {
        name: prefer_huge_pages(tensor)
        for name, tensor in optimizer.state(len(weight), width, storage).items()
    }
    table = Table(weight, state)
    if chosen.on_host:
        table = HostTable(weight, state, device=device, stage_bytes=stage_bytes)
    return PlacedTable(collectives, shard, table)
