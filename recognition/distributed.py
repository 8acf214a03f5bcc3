"""Ranks: who this process is, its device, its process group, and its part of what is split.

One process is a world of one and needs no process group. Nothing happens at import: `current`
reads what `torchrun` left in the environment, `process_group` joins the group.

Two splits are used and they differ:

* `part_range` spreads items as evenly as possible (samples of a batch over ranks).
* `shard_range` gives equal-size blocks with a short or empty tail (rows of a sharded table). It is
  the split of `torch.distributed.tensor.Shard`, so that a table saved by global class id loads on
  any number of ranks.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist

# Public and documented there, but torch's stubs do not say that it is exported.
from torch.distributed import PrefixStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

Value = TypeVar("Value")


@dataclass(frozen=True)
class World:
    """Who this process is among all of a run's processes."""

    rank: int = 0
    size: int = 1  # number of processes
    local_rank: int = 0  # among the processes of this machine
    local_size: int = 1  # number of them

    @property
    def is_main(self) -> bool:
        """Whether this process writes the log, the dashboard and files that exist only once."""
        return self.rank == 0


def current() -> World:
    """Return this process's place: from `torchrun`'s environment, else a world of one.

    Raises `ValueError` when the environment variables contradict each other.
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


@dataclass(frozen=True)
class Process:
    """A process, of this machine or of another."""

    host: str
    machine: str  # where its id has a meaning: one boot of one machine, or of a container
    pid: int
    start: str  # on the kernel's clock: a later process with the same id has another

    @classmethod
    def of(cls, pid: int) -> "Process":
        """Return the process of this machine that has this id."""
        return cls(socket.gethostname(), _machine(), pid, _state_and_start(pid)[1])

    def has_ended(self) -> bool | None:
        """Return whether it has ended; None if that cannot be seen from this machine."""
        if (self.host, self.machine) != (socket.gethostname(), _machine()):
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            pass  # of another user
        state, start = _state_and_start(self.pid)
        return state in ("Z", "X") or start != self.start


def _machine() -> str:
    """Return what is the same for all processes that see each other; empty without /proc."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _state_and_start(pid: int) -> tuple[str, str]:
    """Return the state of a process and its start in ticks; both empty without /proc."""
    try:
        # The name of the program, in parentheses, may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return fields[0], fields[19]
    except OSError:
        return "", ""


def current_attempt() -> int:
    """Return how often `torchrun --max-restarts` has restarted this run."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def choose_device(requested: str, world: World) -> tuple[torch.device, str]:
    """Return the device of this process and a sentence with the reason.

    `requested` is `auto`, `cpu` or `cuda`. Raises `ValueError` when CUDA is requested but missing,
    or when this machine runs more processes than it has GPUs.
    """
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if requested == "cpu":
        return torch.device("cpu"), "cpu, as configured"
    if requested == "auto" and available == 0:
        return torch.device("cpu"), "cpu, because there is no usable CUDA device"
    if available == 0:
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for CPUs"
        raise ValueError(
            f"train.device is cuda, but there is no usable CUDA device (torch {torch.__version__}, "
            f"{built}): set train.device: auto or cpu; with a GPU, check nvidia-smi, "
            "CUDA_VISIBLE_DEVICES and that torch is built for CUDA"
        )
    if available < world.local_size:
        raise ValueError(
            f"{world.local_size} processes on this machine for {available} CUDA device(s): "
            f"start with --nproc-per-node={available}, or set train.device: cpu"
        )
    reason = "as configured" if requested == "cuda" else "because every process has one"
    return torch.device("cuda", world.local_rank), f"cuda:{world.local_rank}, {reason}"


def choose_threads(world: World) -> tuple[int, str]:
    """Return the number of CPU threads a rank should compute with, and the reason.

    With several ranks, an equal part of the machine's cores, unless the user set `OMP_NUM_THREADS`.
    A rank with a GPU needs them too: for augmentation of what is on the CPU, initial centres, and a
    table in CPU memory.
    """
    now = torch.get_num_threads()
    if world.local_size == 1 or _user_set("OMP_NUM_THREADS"):
        return now, f"{now} CPU threads per rank"
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = max(1, (usable or 1) // world.local_size)
    return threads, f"{threads} CPU threads per rank: {usable} cores for {world.local_size} ranks"


def _user_set(variable: str) -> bool:
    """Return whether the user set this environment variable, rather than `torchrun`.

    `torchrun` gives its ranks `OMP_NUM_THREADS=1` if it was started without that variable. The
    environment that it was started with, in which the user's value would be, stays readable.
    """
    if variable not in os.environ or "TORCHELASTIC_RUN_ID" not in os.environ:
        return variable in os.environ
    try:
        started_with = Path(f"/proc/{os.getppid()}/environ").read_bytes().split(b"\0")
    except OSError:  # no such file on this system
        return os.environ[variable] != "1"
    return any(line.startswith(f"{variable}=".encode()) for line in started_with)


@contextmanager
def process_group(device: torch.device, timeout_seconds: float) -> Iterator[World]:
    """Join the run's process group for the duration of the block.

    The backend is nccl for tensors on CUDA and gloo for tensors in CPU memory, where a table of
    class centres may be that is too large for the GPUs. A process started without `torchrun`
    joins no group. A collective that waits longer than `timeout_seconds` fails on every rank.

    The group is destroyed only on a clean exit: after an exception the other ranks may be stuck in
    a collective, and waiting for them here would turn one rank's failure into a hang of all.
    """
    world = current()
    if "RANK" not in os.environ:
        yield world
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    timeout = timedelta(seconds=timeout_seconds)
    store, rank, size = next(rendezvous("env://", world.rank, world.size, timeout=timeout))
    store.set_timeout(timeout)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        # The store of a restarted torchrun still holds the addresses of ranks that have ended.
        store=PrefixStore(f"attempt {current_attempt()}", store),
        rank=rank,
        world_size=size,
        timeout=timeout,
        device_id=device if device.type == "cuda" else None,
    )
    yield world
    dist.destroy_process_group()


def barrier() -> None:
    """Wait for every rank; return at once in a world of one."""
    if dist.is_initialized():
        dist.barrier()


def gather(value: Value) -> list[Value]:
    """Return every rank's value, by rank. Collective; values are small and can be pickled."""
    if not dist.is_initialized():
        return [value]
    values: list[Value | None] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values  # type: ignore[return-value]


def from_main(value: Value) -> Value:
    """Return rank 0's value. Collective; it is small and can be pickled."""
    values = [value]
    if dist.is_initialized():
        dist.broadcast_object_list(values, src=0)
    return values[0]


def part_range(count: int, parts: int, part: int) -> tuple[int, int]:
    """Return `[start, stop)` of `part` when `count` items are spread evenly over `parts`.

    The first `count % parts` parts hold one item more. Raises `ValueError` if `part` is not in
    `[0, parts)` or `count` is negative.

    >>> [part_range(10, 4, part) for part in range(4)]
    [(0, 3), (3, 6), (6, 8), (8, 10)]
    """
    _check_part(count, parts, part)
    base, extra = divmod(count, parts)
    start = part * base + min(part, extra)
    return start, start + base + (part < extra)


def part_sizes(count: int, parts: int) -> list[int]:
    """Return how many of `count` items each part of `part_range` has."""
    ranges = [part_range(count, parts, part) for part in range(parts)]
    return [stop - start for start, stop in ranges]


def shard_range(count: int, parts: int, part: int) -> tuple[int, int]:
    """Return `[start, stop)` of `part` when `count` rows are split into blocks of equal size.

    Each block has `ceil(count / parts)` rows, except the last ones, which may be short or empty.
    Raises `ValueError` if `part` is not in `[0, parts)` or `count` is negative.

    >>> [shard_range(9, 4, part) for part in range(4)]
    [(0, 3), (3, 6), (6, 9), (9, 9)]
    """
    _check_part(count, parts, part)
    block = -(-count // parts)
    return min(part * block, count), min((part + 1) * block, count)


def _check_part(count: int, parts: int, part: int) -> None:
    if count < 0:
        raise ValueError(f"cannot split {count} items: expected a count of 0 or more")
    if not 0 <= part < parts:
        raise ValueError(f"part {part} of {parts} does not exist: expected 0 <= part < {parts}")
