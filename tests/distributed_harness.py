"""Runs a function on n ranks, each its own process, connected by gloo on this machine.

    def check(scale: float) -> float: ...

    results = run_ranks(check, 2, 3.0)   # [check(3.0) on rank 0, check(3.0) on rank 1]

The function must be importable (defined at the top level of a module) and its arguments and
result picklable. Each rank has the environment variables of `torchrun` (RANK, WORLD_SIZE,
LOCAL_RANK, …) and the default process group, so `torch.distributed` and
`recognition.distributed` work as in a real run. Do several checks per launch.

Processes are forked from a server that has imported the project (`tests/fork_server.py`). The
parent serves the rendezvous on a port chosen by the system, so that no port is ever guessed.
"""

import os
import pickle
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

import torch
import torch.distributed as dist

# Public and documented there, but torch's stubs do not say that it is exported.
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from tests.fork_server import fork_server

Result = TypeVar("Result")

# Once a rank has failed, the others may wait for it forever; they get this long to report more.
GRACE_SECONDS = 2.0


class RankError(AssertionError):
    """A rank raised, died, or did not end in time. The message holds every rank's traceback."""


def run_ranks(
    function: Callable[..., Result],
    world_size: int,
    *args: object,
    timeout: float = 60.0,
    join_group: bool = True,
) -> list[Result]:
    """Call `function(*args)` on `world_size` ranks and return the results by rank.

    Args:
        function: importable; gets its rank from `torch.distributed.get_rank()` or the environment.
        world_size: number of ranks.
        args: passed to every rank.
        timeout: seconds for the whole launch, and for each collective.
        join_group: whether to start the default process group; without it the function can start
            its own, since the environment has all that `init_process_group` needs.

    Raises `RankError` if any rank raises, dies or does not end in time. No process outlives the
    call.
    """
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    context = fork_server()
    ranks: list[tuple[BaseProcess, Connection]] = []
    try:
        for rank in range(world_size):
            receiver, sender = context.Pipe(duplex=False)
            environment = _environment(rank, world_size, store.port)
            process: BaseProcess = context.Process(
                target=_run_rank,
                args=(sender, environment, join_group, timeout, function, args),
            )
            process.start()
            sender.close()
            ranks.append((process, receiver))
        return _collect(ranks, timeout)
    finally:
        for process, receiver in ranks:
            process.kill()
            process.join()
            receiver.close()


def _environment(rank: int, world_size: int, port: int) -> dict[str, str]:
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the parent is the server; rank 0 is a client too
        "GLOO_SOCKET_IFNAME": "lo",  # the machine's own name may not resolve in a container
        "OMP_NUM_THREADS": "1",
    }


def _run_rank(
    sender: Connection,
    environment: dict[str, str],
    join_group: bool,
    timeout: float,
    function: Callable[..., object],
    args: tuple[object, ...],
) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    try:
        if join_group:
            dist.init_process_group("gloo", timeout=timedelta(seconds=timeout))
        result = function(*args)
        if dist.is_initialized():
            dist.destroy_process_group()
        # Bytes, not tensors in shared memory: they must outlive this process.
        sender.send_bytes(pickle.dumps((True, result)))
    except BaseException:
        sender.send_bytes(pickle.dumps((False, traceback.format_exc())))
        # Without tearing down a group whose other ranks may be stuck in a collective.
        os._exit(1)


def _collect(ranks: list[tuple[BaseProcess, Connection]], timeout: float) -> list[Any]:
    results: dict[int, Any] = {}
    failures: dict[int, str] = {}
    deadline = time.monotonic() + timeout
    waiting = {receiver: rank for rank, (_, receiver) in enumerate(ranks)}
    while waiting:
        ready = wait(list(waiting), max(0.0, deadline - time.monotonic()))
        if not ready:
            break
        for receiver in ready:
            assert isinstance(receiver, Connection)
            rank = waiting.pop(receiver)
            succeeded, result = _receive(receiver, ranks[rank][0])
            (results if succeeded else failures)[rank] = result
            if not succeeded:
                deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
    if failures or waiting:
        lines = [f"--- rank {rank} failed\n{text}" for rank, text in failures.items()]
        lines += [f"--- rank {rank} has not ended" for rank in waiting.values()]
        raise RankError(f"{len(ranks)} ranks, limit {timeout} s\n" + "\n".join(lines))
    return [results[rank] for rank in range(len(ranks))]


def _receive(receiver: Connection, process: BaseProcess) -> tuple[bool, Any]:
    try:
        answer: tuple[bool, Any] = pickle.loads(receiver.recv_bytes())
    except EOFError:
        process.join()
        return False, f"ended without a result, exit code {process.exitcode}"
    return answer
