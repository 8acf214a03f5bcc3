"""Runs a case in fresh processes, one per rank, that take a step when they are told to.

Each method has its own processes, so that one's memory is not counted as another's, and several
methods are kept running at once, so that their steps can be taken in turn: whatever slows the
machine for a while then slows all of them.
"""

import os
import warnings
from contextlib import ExitStack
from dataclasses import astuple, dataclass, replace
from functools import partial
from typing import Any, Self

import torch
import torch.distributed as dist

# Public and documented there, but torch's stubs do not say that it is exported.
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from scripts.benchmarks.common.memory import PeakMemory
from scripts.benchmarks.common.processes import Remote
from scripts.benchmarks.head.cases import HeadCase, global_batch
from scripts.benchmarks.head.methods import Work, build
from scripts.benchmarks.head.rates import timed


@dataclass(frozen=True)
class Step:
    """One step of one rank: the seconds it took, and the loss."""

    seconds: float
    loss: float
    selection_seconds: float | None


@dataclass(frozen=True)
class Usage:
    """A rank's memory and work after its steps."""

    state_bytes: int
    beyond_bytes: int
    memory_source: str
    work: Work


class RunningCase:
    """The processes of one case, inside `with RunningCase(case) as running`.

    Raises `ProcessError` there and in every method when a process fails.
    """

    def __init__(self, case: HeadCase) -> None:
        self.case = case
        self._ranks: list[Remote] = []
        self._next_step = 0
        self._exit = ExitStack()

    def __enter__(self) -> Self:
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self._store = store  # it must live for as long as the processes
        with self._exit as stack:
            for rank in range(self.case.ranks):
                self._ranks.append(Remote(_Rank, self.case, rank, store.port))
                stack.callback(self._ranks[-1].close)
            self._wait()
            self._exit = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._exit.close()

    def steps(self, count: int) -> list[Step]:
        """Take `count` steps; a step's time is that of its slowest rank."""
        by_rank = self._call("steps", self._next_step, count)
        self._next_step += count
        return [
            replace(ranks[0], seconds=max(one.seconds for one in ranks))
            for ranks in zip(*by_rank, strict=True)
        ]

    def usage(self) -> Usage:
        """Return memory and work so far, summed over the ranks."""
        ranks: list[Usage] = self._call("usage")
        return Usage(
            sum(one.state_bytes for one in ranks),
            sum(one.beyond_bytes for one in ranks),
            ranks[0].memory_source,
            Work(*map(sum, zip(*(astuple(one.work) for one in ranks), strict=True))),
        )

    def rows(self, classes: torch.Tensor) -> torch.Tensor:
        """Return the centres of `classes`: float32 [len(classes), d]."""
        rows = torch.full((len(classes), self.case.dim), torch.nan)
        for found, centres in self._call("rows", classes):
            for one, centre in zip(found, centres, strict=True):
                rows[classes == one] = centre
        return rows

    def _call(self, method: str, *args: Any) -> list[Any]:
        for rank in self._ranks:
            rank.start(method, *args)
        return self._wait()

    def _wait(self) -> list[Any]:
        return [rank.wait() for rank in self._ranks]


class _Rank:
    """One rank of a case, in its own process."""

    def __init__(self, case: HeadCase, rank: int, port: int) -> None:
        self._case, self._rank = case, rank
        torch.set_num_threads(max(1, case.threads // case.ranks))
        cuda = case.device == "cuda"
        self._device = torch.device("cuda", rank) if cuda else torch.device("cpu")
        if cuda:  # else NCCL's barrier and kernels of every rank would go to the first GPU
            torch.cuda.set_device(self._device)
        if case.ranks > 1:
            # The names are deprecated in the newest torch; the oldest supported has no others.
            warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all ranks are on this machine
            store = TCPStore("127.0.0.1", port, is_master=False)
            dist.init_process_group(
                "nccl" if cuda else "gloo", store=store, rank=rank, world_size=case.ranks
            )
        self._load_libraries()
        self._method = build(case, self._device)
        self._memory = PeakMemory(self._device)

    def _load_libraries(self) -> None:
        """Take two steps with a tiny table, so that code and thread stacks are not counted."""
        tiny = replace(self._case, classes=64 * self._case.ranks, rate=1.0)
        method = build(tiny, self._device)
        for step in range(2):
            x, labels = self._batch(tiny, step)
            method.step(x, labels, 0.0)

    def _batch(self, case: HeadCase, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        samples = case.batch // case.ranks
        x, labels = global_batch(case, step)
        local = slice(self._rank * samples, (self._rank + 1) * samples)
        return x[local].to(self._device).requires_grad_(), labels[local].to(self._device)

    def steps(self, first: int, count: int) -> list[Step]:
        """Take steps `first … first + count − 1`."""
        done = []
        for step in range(first, first + count):
            x, labels = self._batch(self._case, step)
            if self._case.ranks > 1:
                dist.barrier()
            step_once = partial(self._method.step, x, labels, self._case.lr)
            seconds, loss = timed(step_once, self._device)
            done.append(Step(seconds, loss.item(), self._method.selection_seconds))
        return done

    def usage(self) -> Usage:
        """Return memory and work so far."""
        return Usage(
            self._method.state_bytes(),
            self._memory.beyond(),
            self._memory.source,
            self._method.work(),
        )

    def rows(self, classes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the rank's part of `classes`, and their centres."""
        return self._method.rows(classes)
