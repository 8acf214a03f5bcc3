"""Runs a case in fresh processes, one a rank, that take a step when they are told to.

Each method has its own processes, so that one's memory is not counted as another's, and several
methods stand side by side, so that their steps can be taken in turn: what slows the machine down
for a while then slows all of them.
"""

import multiprocessing
import os
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, TypeVar

import torch
import torch.distributed as dist

# Public and documented there, but torch's stubs do not say that it is exported.
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from scripts.benchmarks.common.memory import PeakMemory
from scripts.benchmarks.head.cases import Case, global_batch
from scripts.benchmarks.head.machine import Rates, measure_rates, synchronize
from scripts.benchmarks.head.methods import Work, build

Result = TypeVar("Result")


def _context() -> Any:
    """Return how processes start: with nothing of this one's memory, torch loaded where possible.

    A server that has imported torch once starts one in tenths of a second; Windows has none.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


class CaseError(RuntimeError):
    """A process of a case failed; the message is its last words."""


@dataclass(frozen=True)
class Step:
    """One step of one rank: seconds it took, and the loss."""

    seconds: float
    loss: float
    selection_seconds: float | None


@dataclass(frozen=True)
class Account:
    """A rank's memory and work after its steps."""

    state_bytes: int
    beyond_bytes: int
    memory_source: str
    work: Work


class Running:
    """The processes of one case, from `with Running(case) as running` on.

    Raises `CaseError` there and in every method when a process fails.
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        self._ranks: list[tuple[Any, Connection]] = []
        self._taken = 0

    def __enter__(self) -> "Running":
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self._store = store  # it serves for as long as the processes live
        context = _context()
        for rank in range(self.case.ranks):
            mine, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(theirs, self.case, rank, store.port), daemon=True
            )
            process.start()
            theirs.close()
            self._ranks.append((process, mine))
        try:
            self._answers()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process, connection in self._ranks:
            connection.close()  # which ends a process that waits for word
            process.join(5.0)
            process.kill()
            process.join()

    def steps(self, count: int) -> list[Step]:
        """Take `count` steps; a step's time is its slowest rank's."""
        by_rank = self._ask("steps", self._taken, count)
        self._taken += count
        return [
            replace(ranks[0], seconds=max(one.seconds for one in ranks))
            for ranks in zip(*by_rank, strict=True)
        ]

    def account(self) -> Account:
        """Return memory and work so far, added up over the ranks."""
        ranks: list[Account] = self._ask("account")
        return Account(
            sum(one.state_bytes for one in ranks),
            sum(one.beyond_bytes for one in ranks),
            ranks[0].memory_source,
            Work(
                sum(one.work.active for one in ranks),
                sum(one.work.flops for one in ranks),
                sum(one.work.state_bytes for one in ranks),
            ),
        )

    def rows(self, classes: torch.Tensor) -> torch.Tensor:
        """Return the centres of `classes`: float32 [len(classes), d]."""
        rows = torch.full((len(classes), self.case.dim), torch.nan)
        for found, centres in self._ask("rows", classes):
            for one, centre in zip(found, centres, strict=True):
                rows[classes == one] = centre
        return rows

    def _ask(self, *question: Any) -> list[Any]:
        for _, connection in self._ranks:
            connection.send(question)
        return self._answers()

    def _answers(self) -> list[Any]:
        answers = []
        for process, connection in self._ranks:
            answers.append(_answer(process, connection))
        return answers


def in_fresh_process(function: Callable[..., Result], *args: Any) -> Result:
    """Return `function(*args)`, called in a process of its own; raises `CaseError` if it fails."""
    context = _context()
    mine, theirs = context.Pipe()
    process = context.Process(target=_call, args=(theirs, function, args), daemon=True)
    process.start()
    theirs.close()
    try:
        result: Result = _answer(process, mine)
        return result
    finally:
        process.kill()
        process.join()


def machine_rates(dtypes: tuple[str, ...], device: torch.device, threads: int) -> Rates:
    """Return `measure_rates`, from a process of its own."""
    return in_fresh_process(measure_rates, dtypes, device, threads)


def _answer(process: Any, connection: Connection) -> Any:
    try:
        succeeded, value = connection.recv()
    except (EOFError, ConnectionError):
        process.join(5.0)
        raise CaseError(
            f"a process ended without a word, exit code {process.exitcode}: −9 means that the "
            "system killed it, mostly for want of memory"
        ) from None
    if not succeeded:
        raise CaseError(value)
    return value


def _call(connection: Connection, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    try:
        connection.send((True, function(*args)))
    except Exception:
        connection.send((False, traceback.format_exc()))


def _serve(connection: Connection, case: Case, rank: int, port: int) -> None:
    try:
        served = _Rank(case, rank, port)
        connection.send((True, None))
        while True:
            name, *args = connection.recv()
            connection.send((True, getattr(served, name)(*args)))
    except EOFError:
        pass  # no more questions
    except Exception:
        connection.send((False, traceback.format_exc()))
    os._exit(0)  # without the teardown of a group whose other ranks may be stuck


class _Rank:
    """One rank of a case, in its own process."""

    def __init__(self, case: Case, rank: int, port: int) -> None:
        self._case, self._rank = case, rank
        torch.set_num_threads(max(1, case.threads // case.ranks))
        cuda = case.device == "cuda"
        self._device = torch.device("cuda", rank) if cuda else torch.device("cpu")
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
        """Make two steps of a tiny table, so that code and thread stacks are not counted."""
        tiny = replace(self._case, classes=64 * self._case.ranks, rate=1.0)
        method = build(tiny, self._device)
        for step in range(2):
            x, labels = self._batch(tiny, step)
            method.step(x, labels, 0.0)

    def _batch(self, case: Case, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        share = case.batch // case.ranks
        x, labels = global_batch(case, step)
        mine = slice(self._rank * share, (self._rank + 1) * share)
        return x[mine].to(self._device).requires_grad_(), labels[mine].to(self._device)

    def steps(self, first: int, count: int) -> list[Step]:
        """Take steps `first … first + count − 1`."""
        done = []
        for step in range(first, first + count):
            x, labels = self._batch(self._case, step)
            if self._case.ranks > 1:
                dist.barrier()
            synchronize(self._device)
            started = time.perf_counter()
            loss = self._method.step(x, labels, self._case.lr)
            synchronize(self._device)
            seconds = time.perf_counter() - started
            done.append(Step(seconds, loss.item(), self._method.selection_seconds()))
        return done

    def account(self) -> Account:
        """Return memory and work so far."""
        return Account(
            self._method.state_bytes(),
            self._memory.beyond(),
            self._memory.source,
            self._method.work(),
        )

    def rows(self, classes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the rank's part of `classes`, and their centres."""
        return self._method.rows(classes)
