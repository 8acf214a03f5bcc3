"""The placements by name, as a config writes them: where the class centres live."""

from dataclasses import dataclass

import torch
import torch.distributed as dist

from recognition.head.choices import choose
from recognition.head.kernels.workspace import prefer_huge_pages
from recognition.head.optim.row_optimizers import RowOptimizer
from recognition.head.placement.coasting import Coasting
from recognition.head.placement.collectives import (
    Collectives,
    ReplicatedCollectives,
    ShardedCollectives,
)
from recognition.head.placement.host_table import HostTable
from recognition.head.placement.initial import initial_centres
from recognition.head.placement.split_table import SplitTable
from recognition.head.placement.table import Table

_ROWS = 1 << 18  # initial centres that are split at a time


UPDATES = {"coasting": True, "frozen": False}  # by name: whether rows move that are not sampled


@dataclass(frozen=True)
class Placement:
    """Where centres live."""

    collectives: type[Collectives]  # what passes between the ranks
    on_host: bool = False  # whether they stay in CPU memory; only active rows are sent


PLACEMENTS: dict[str, Placement] = {
    "sharded": Placement(ShardedCollectives),
    "replicated": Placement(ReplicatedCollectives),
    "host": Placement(ShardedCollectives, on_host=True),
}


def create_collectives(placement: str, group: dist.ProcessGroup | None) -> Collectives:
    """Return the ranks that train the table: one, where no process group was started.

    Raises `ValueError` for an unknown placement.
    """
    kind = choose(PLACEMENTS, placement, "placement").collectives
    if not dist.is_initialized():
        return kind(None, 0, 1)
    return kind(group, dist.get_rank(group), dist.get_world_size(group))


def create_table(
    placement: str,
    shard: tuple[int, int],
    width: int,
    *,
    seed: int,
    optimizer: RowOptimizer,
    device: torch.device,
    stage_bytes: int,
    halves: bool,
) -> Table:
    """Return the table of classes `[start, stop)`, with initial centres of `width` numbers each.

    With `halves` the weight is kept in two of them, where it is on the device.
    """
    on_host, (start, stop) = PLACEMENTS[placement].on_host, shard
    storage = torch.device("cpu") if on_host else device
    state = {
        name: prefer_huge_pages(tensor)
        for name, tensor in optimizer.state(stop - start, width, storage).items()
    }
    if halves and not on_host:
        table = SplitTable(stop - start, width, state, device)
        for first in range(start, stop, _ROWS):  # never a second table beside the first
            last = min(first + _ROWS, stop)
            centres = initial_centres(first, last, width, seed, device)
            table.write_rows("weight", first - start, centres)
        return table
    weight = initial_centres(start, stop, width, seed, storage)
    if on_host:
        return HostTable(weight, state, device=device, stage_bytes=stage_bytes)
    return Table(weight, state)


def create_coasting(
    update: str, table: Table, optimizer: RowOptimizer, *, samples: bool, in_blocks: bool
) -> Coasting | None:
    """Return what moves rows that are not sampled; None where they stay, or where all are.

    Raises `ValueError` for an unknown `update`.
    """
    moves = choose(UPDATES, update, "update") and samples
    return Coasting(table, optimizer, in_blocks=in_blocks) if moves else None
