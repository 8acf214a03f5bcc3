"""Runs a step in a process of its own, and ends that and all that it started at the limit.

What the process prints, and what its children print, goes through a pipe: to the step's log, whose
disk may be full, and to a tail that the page shows.
"""

import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from recognition.distributed import Process
from scripts.benchmarks.common.processes import fresh_context
from scripts.machine.step import FAILED, Context, Figures, Step, Verdict

TAIL_BYTES = 4000
END_SECONDS = 3.0  # for a step that is done to release what it holds, and to end
SIGTERM_SECONDS = 3.0  # for torchrun and training runs to end their children by themselves
STEP_ENDED = "the step ended"


@dataclass
class Outcome:
    """What came of a step."""

    step: Step
    verdict: Verdict
    seconds: float
    rows: list[Figures] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)  # of the machine, by name
    tail: str = ""  # the end of what was printed


@dataclass(frozen=True)
class Order:
    """What a process is told to do; see `Context`."""

    run: Callable[[Context], Verdict]
    device: str
    scale: str
    folder: Path
    seconds: float


def run_step(step: Step, order: Order, log: Path) -> Outcome:
    """Run a step to its end, or to its limit, and return what it reported until then."""
    context = fresh_context(None)
    messages, theirs = context.Pipe()
    output, sink = context.Pipe(duplex=False)
    outcome = Outcome(step, Verdict(FAILED, STEP_ENDED), 0.0)
    started = time.monotonic()
    process = context.Process(target=_serve, args=(theirs, sink, order))
    process.start()
    theirs.close()
    sink.close()
    try:
        with _Output(output, log) as printed:
            outcome.verdict = _follow(messages, printed, outcome, order.seconds)
            if outcome.verdict.words != limit_words(order.seconds):
                process.join(END_SECONDS)
            _kill_tree(process.pid)
            process.join(END_SECONDS)
            printed.drain()
    finally:
        _kill_tree(process.pid)  # after Ctrl-C too
        messages.close()
    if outcome.verdict.words == STEP_ENDED:
        outcome.verdict = Verdict(FAILED, f"its process ended with code {process.exitcode}")
    outcome.seconds, outcome.tail = time.monotonic() - started, printed.tail()
    return outcome


def _follow(messages: Connection, printed: "_Output", outcome: Outcome, limit: float) -> Verdict:
    """Take messages and output until the verdict, the end of the process, or the limit."""
    end = time.monotonic() + limit
    while True:
        ready = wait([messages, *printed.open], max(0.0, end - time.monotonic()))
        if not ready:
            return Verdict(FAILED, limit_words(limit))
        if messages not in ready:
            printed.read()
            continue
        try:
            kind, value = messages.recv()
        except (EOFError, OSError):
            return outcome.verdict
        if kind == "row":
            outcome.rows.append(value)
        elif kind == "verdict":
            return Verdict(*value)
        else:
            outcome.facts[kind] = value


def limit_words(seconds: float) -> str:
    """Return what the page says of a step that was ended at its limit."""
    return f"not done within {seconds:.0f} s, its time limit, and ended"


class _Output:
    """What a process prints: its log, and the end of it."""

    def __init__(self, pipe: Connection, log: Path) -> None:
        self._pipe, self._log = pipe, log
        self.open = [pipe]  # empty once every process that could print has ended
        self._tail: deque[bytes] = deque(maxlen=64)

    def __enter__(self) -> "_Output":
        self._file = None
        with suppress(OSError):  # a full disk costs the log, not the check
            self._file = self._log.open("wb", buffering=0)
        return self

    def __exit__(self, *exception: object) -> None:
        self._pipe.close()
        if self._file is not None:
            self._file.close()

    def read(self) -> None:
        """Take what is there."""
        found = os.read(self._pipe.fileno(), 1 << 16)
        if not found:
            self.open = []
        self._tail.append(found)
        if self._file is not None:
            with suppress(OSError):
                self._file.write(found)

    def drain(self) -> None:
        """Take the rest; a process that escaped may hold the pipe open, so not for long."""
        while self.open and wait(self.open, 0.5):
            self.read()

    def tail(self) -> str:
        """Return the last lines."""
        return b"".join(self._tail)[-TAIL_BYTES:].decode(errors="replace")


def _serve(messages: Connection, sink: Connection, order: Order) -> None:
    """Run the step, in its process: with its own group, and with its output in the pipe."""
    os.setsid()  # Ctrl-C goes to the command alone, which ends this group
    for descriptor in (1, 2):
        os.dup2(sink.fileno(), descriptor)
    sink.close()
    sys.stdout = os.fdopen(1, "w", buffering=1, errors="replace", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="replace", closefd=False)
    threading.Thread(target=_end_with, args=(messages,), daemon=True).start()
    device = torch.device("cuda:0" if order.device == "cuda" else order.device)
    context = Context(
        device, order.scale, order.folder, order.seconds, lambda *message: messages.send(message)
    )
    try:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        verdict = order.run(context)
    except Exception as error:
        traceback.print_exc()
        first_line = str(error).strip().partition("\n")[0][:300]
        verdict = Verdict(FAILED, f"{type(error).__name__}: {first_line}")
    sys.stdout.flush()
    sys.stderr.flush()
    messages.send(("verdict", (verdict.status, verdict.words)))


def _end_with(messages: Connection) -> None:
    """End this process and all that it started when the command ends, however it does."""
    with suppress(EOFError, OSError):
        messages.recv()
    for child in _descendants(os.getpid()):
        with suppress(OSError):
            os.kill(child, signal.SIGKILL)
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _kill_tree(pid: int | None) -> None:
    """End a process and all that it started, torchrun's ranks with their own groups too."""
    assert pid is not None, "the process was started"
    found = {pid: Process.of(pid)}
    for number, seconds in ((signal.SIGTERM, SIGTERM_SECONDS), (signal.SIGKILL, 1.0)):
        found |= {child: Process.of(child) for one in list(found) for child in _descendants(one)}
        alive = [one for one in found.values() if not one.has_ended()]
        for one in alive:
            with suppress(OSError):
                os.kill(one.pid, number)
        end = time.monotonic() + seconds
        while time.monotonic() < end and not all(one.has_ended() for one in alive):
            time.sleep(0.02)
    with suppress(OSError):
        os.killpg(pid, signal.SIGKILL)  # what has lost its parent


def _descendants(pid: int) -> set[int]:
    """Return the processes that a process started, and those that they did; empty without /proc."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):
            parents[int(entry.parent.name)] = int(entry.read_text().rpartition(")")[2].split()[1])
    found, before = {pid}, 0
    while len(found) > before:
        before = len(found)
        found |= {child for child, parent in parents.items() if parent in found}
    return found - {pid}


@contextmanager
def interruptible() -> Iterator[None]:
    """Within the block, SIGTERM and a closed terminal interrupt as Ctrl-C does."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {
        number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
