"""Process groups and rank helpers: one process is a world of one, with no group at all.

Nothing happens at import. `start` reads what `torchrun` left in the environment, chooses the
device and the backend, and says why. Everything else asks `current()` who it is.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class World:
    """Who this process is among all of a run's processes.

    Attributes:
        rank: number of this process, `0 <= rank < size`.
        size: number of processes.
        local_rank: number of this process on its own machine.
        local_size: number of processes on its own machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes logs, dashboards and files that exist once."""
        return self.rank == 0


def current() -> World:
    """Return this process's place: from `torchrun`'s environment, else a world of one.

    Raises `ValueError` when the variables are there and do not fit together.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return World()
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if not 0 <= rank < size:
        raise ValueError(
            f"RANK={rank} with WORLD_SIZE={size}: expected 0 <= RANK < WORLD_SIZE; "
            "start with torchrun, or unset both"
        )
    local_rank = int(os.environ.get("LOCAL_RANK", rank))
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    return World(rank, size, local_rank, local_size)


def choose_device(requested: str, world: World) -> tuple[torch.device, str]:
    """Return the device of this process and a sentence with the reason.

    `requested` is `auto`, `cpu` or `cuda`. Raises `ValueError` when CUDA is asked for and absent,
    or when more processes run on this machine than it has GPUs.
    """
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if requested == "cpu":
        return torch.device("cpu"), "cpu, as configured"
    if requested == "auto" and available == 0:
        return torch.device("cpu"), "cpu, because this machine has no usable CUDA device"
    if available < world.local_size:
        raise ValueError(
            f"{world.local_size} processes on this machine, {available} CUDA devices: "
            f"start with --nproc-per-node={max(available, 1)}, or set device: cpu"
        )
    reason = "as configured" if requested == "cuda" else "because one is there for every process"
    return torch.device("cuda", world.local_rank), f"cuda:{world.local_rank}, {reason}"


def choose_threads(device: torch.device, world: World) -> tuple[int, str]:
    """Return the number of CPU threads a rank should compute with, and the reason.

    `torchrun` gives every rank one thread unless `OMP_NUM_THREADS` says otherwise, which leaves
    cores idle when ranks train on a CPU.
    """
    now = torch.get_num_threads()
    if device.type != "cpu" or world.size == 1 or now != 1:
        return now, f"{now} CPU threads a rank"
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = max(1, (usable or 1) // world.local_size)
    return threads, f"{threads} CPU threads a rank: {usable} cores for {world.local_size} ranks"


@contextmanager
def process_group(device: torch.device, timeout_seconds: float) -> Iterator[World]:
    """Join the run's process group for the duration of the block.

    The backend is nccl for tensors on CUDA and gloo for those in CPU memory, which a table of
    class centres may be that is too large for the GPUs. A world of one started without `torchrun`
    joins nothing. A collective that waits longer than `timeout_seconds` fails on every rank.

    The group is destroyed only on a clean exit: after an exception the peers may be stuck in a
    collective, and waiting for them here would turn one rank's failure into everybody's hang.
    """
    world = current()
    if "RANK" not in os.environ:
        yield world
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        timeout=timedelta(seconds=timeout_seconds),
        device_id=device if device.type == "cuda" else None,
    )
    yield world
    dist.destroy_process_group()


def barrier() -> None:
    """Wait for every rank; returns at once in a world of one."""
    if dist.is_initialized():
        dist.barrier()
