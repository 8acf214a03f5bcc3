"""The placements by name, as a config writes them: where the class centres live."""

from dataclasses import dataclass

import torch
import torch.distributed as dist

from recognition.head.choices import choose
from recognition.head.kernels.reference import BlockOps
from recognition.head.kernels.workspace import prefer_huge_pages
from recognition.head.optim.rounding import RowNoise
from recognition.head.optim.row_optimizers import RowOptimizer
from recognition.head.optim.storage import ROUNDED, STORAGE, zero_rows
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

_ROWS = 1 << 15  # initial centres that are made in float32 at a time


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
    storage: str,
    halves: bool,
) -> Table:
    """Return the table of classes `[start, stop)`, with initial centres of `width` numbers each.

    The weight is kept in a `storage` of `STORAGE`; with `halves` in two of them, where it is
    float32 on the device.
    """
    on_host, (start, stop) = PLACEMENTS[placement].on_host, shard
    memory, dtype = torch.device("cpu") if on_host else device, STORAGE[storage]
    rounds = dtype in ROUNDED
    tensors = optimizer.state(stop - start, width, memory)
    if rounds:
        tensors |= zero_rows("weight", stop - start, width, dtype, memory)
    tensors = {name: prefer_huge_pages(tensor) for name, tensor in tensors.items()}
    if halves and not rounds and not on_host:
        table: Table = SplitTable(stop - start, width, tensors, device)
    else:
        weight = tensors.pop("weight") if rounds else initial_centres(*shard, width, seed, memory)
        table = Table(weight, tensors)
        if on_host:
            table = HostTable(weight, tensors, device=device, stage_bytes=stage_bytes)
        if not rounds:
            return table
    for first in range(start, stop, _ROWS):  # never a second table next to the first
        last = min(first + _ROWS, stop)
        centres = initial_centres(first, last, width, seed, memory)
        # Of the step before the first, so that the first update gets bits of its own.
        table.write_centres(first - start, centres, RowNoise(seed, -1, last - first, first))
    return table


def create_coasting(
    update: str, table: Table, optimizer: RowOptimizer, ops: BlockOps, seed: int,
    first_class: int, *, in_blocks: bool,
) -> Coasting | None:  # fmt: skip
    """Return what moves rows that are not sampled; None where they stay.

    `ops` are those of the device that computes. Raises `ValueError` for an unknown `update`.
    """
    moves = choose(UPDATES, update, "update")
    if not moves:
        return None
    if isinstance(table, HostTable):
        ops = BlockOps()
    return Coasting(table, optimizer, ops, seed, first_class, in_blocks=in_blocks)
