"""Starts `train.py` as users do, on any number of ranks, and watches each rank.

Ranks are started directly and not through torchrun, which would end the others after a failure:
the tests check that each rank ends on its own, and with which exit code.

Each is forked from a server that has imported everything once, as a fresh interpreter takes
seconds of imports per rank. Then it runs `train.py` from its first line, with its own environment,
folder and output, and threads as if it had been started with them.
"""

import os
import runpy
import socket
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from tests.fork_server import fork_server

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
        self.processes: list[BaseProcess] = []
        self._printed = tempfile.TemporaryDirectory()
        for rank in range(count):
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
            if count > 1:
                environment |= {
                    "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count),
                    "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(port),
                }  # fmt: skip
            process: BaseProcess = fork_server().Process(
                target=_run_train, args=(list(arguments), environment, self._output(rank))
            )
            process.start()
            self.processes.append(process)

    def __enter__(self) -> "Ranks":
        return self

    def __exit__(self, *exception: object) -> None:
        for process in self.processes:
            process.kill()
            process.join()
        self._printed.cleanup()

    def _output(self, rank: int) -> Path:
        return Path(self._printed.name) / f"rank_{rank}.txt"

    def send_signal(self, rank: int, number: int) -> None:
        """Send a signal to a running rank."""
        pid = self.processes[rank].pid
        assert pid is not None
        os.kill(pid, number)

    def wait(self, seconds: float = 120) -> list[Ended]:
        """Return how every rank ended; fail the test if one still runs after `seconds`."""
        end = time.monotonic() + seconds
        ended = []
        for rank, process in enumerate(self.processes):
            process.join(max(end - time.monotonic(), 0.1))
            output = self._output(rank).read_text()
            if process.exitcode is None:
                raise AssertionError(f"rank {rank} did not end:\n{output[-3000:]}")
            ended.append(Ended(process.exitcode, output))
        return ended


def _run_train(arguments: list[str], environment: Mapping[str, str], output: Path) -> None:
    with output.open("w") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))  # OpenMP has read it in the server
    os.chdir(ROOT)
    sys.argv = [str(ROOT / "train.py"), *arguments]
    runpy.run_path(sys.argv[0], run_name="__main__")


def train(arguments: Sequence[str], *, ranks: int = 1, seconds: float = 120) -> list[Ended]:
    """Run `train.py` to its end on `ranks` ranks."""
    with Ranks(arguments, ranks) as running:
        return running.wait(seconds)


def train_well(arguments: Sequence[str], *, ranks: int = 1) -> None:
    """Run `train.py` and fail the test, with the output, unless every rank ends with 0."""
    for rank, ended in enumerate(train(arguments, ranks=ranks)):
        assert ended.code == 0, f"rank {rank} ended with {ended.code}:\n{ended.output[-3000:]}"
