"""Starts `train.py` as users do, on any number of ranks, and watches each rank.

Ranks are started directly and not through torchrun, which would end the others after a failure:
the tests check that each rank ends on its own, and with which exit code.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Ended:
    """How a rank ended: its exit code (negative: the signal) and everything it printed."""

    code: int
    output: str


class Ranks:
    """Running ranks of `train.py`; a context manager that leaves no process running."""

    def __init__(self, arguments: Sequence[str], count: int) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.processes = []
        for rank in range(count):
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
            if count > 1:
                environment |= {
                    "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count),
                    "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(port),
                }  # fmt: skip
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, str(ROOT / "train.py"), *arguments],
                    cwd=ROOT, env=environment, text=True,
                    stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                )
            )  # fmt: skip

    def __enter__(self) -> "Ranks":
        return self

    def __exit__(self, *exception: object) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def wait(self, seconds: float = 120) -> list[Ended]:
        """Return how every rank ended; fail the test if one still runs after `seconds`."""
        end = time.monotonic() + seconds
        ended = []
        for rank, process in enumerate(self.processes):
            try:
                output, _ = process.communicate(timeout=max(end - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                process.kill()
                output, _ = process.communicate()
                raise AssertionError(f"rank {rank} did not end:\n{output[-3000:]}") from None
            ended.append(Ended(process.returncode, output))
        return ended


def train(arguments: Sequence[str], *, ranks: int = 1, seconds: float = 120) -> list[Ended]:
    """Run `train.py` to its end on `ranks` ranks."""
    with Ranks(arguments, ranks) as running:
        return running.wait(seconds)


def train_well(arguments: Sequence[str], *, ranks: int = 1) -> None:
    """Run `train.py` and fail the test, with the output, unless every rank ends with 0."""
    for rank, ended in enumerate(train(arguments, ranks=ranks)):
        assert ended.code == 0, f"rank {rank} ended with {ended.code}:\n{ended.output[-3000:]}"
