"""Ranks as forks of one small process: some hundred starts take seconds."""

import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch._dynamo  # a DTensor imports it, which takes seconds: once here, not in every fork
import torch.distributed as dist

from recognition.distributed import World

SECONDS = 60  # after which a rank that still runs has hung


def fork_ranks(count: int, function: Callable[[World], None], log: Path) -> list[int]:
    """Run `function` on `count` ranks; return how each ended: 0, 1 for an error, −n for a signal.

    What the ranks print goes to `log`.
    """
    sys.stdout.flush()
    with tempfile.TemporaryDirectory() as meeting:
        pids = []
        for rank in range(count):
            pid = os.fork()
            if pid == 0:
                _run(World(rank, count, rank, count), function, Path(meeting) / "store", log)
            pids.append(pid)
        return [_wait(pid) for pid in pids]


def _run(world: World, function: Callable[[World], None], store: Path, log: Path) -> None:
    try:
        with log.open("a") as stream:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
        torch.set_num_threads(1)
        if world.size > 1:
            dist.init_process_group(
                "gloo", init_method=f"file://{store}", rank=world.rank, world_size=world.size,
                timeout=timedelta(seconds=SECONDS / 2),
            )  # fmt: skip
        function(world)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def _wait(pid: int) -> int:
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise AssertionError(f"a rank hung for {SECONDS} s")
