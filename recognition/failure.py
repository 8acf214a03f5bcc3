"""How a rank ends before its time: it fails, or a signal asks it to.

A rank that raises must not wait for the others: they may be in a collective that will never
complete. Its process ends, its sockets close, and then the others' collectives fail or `torchrun`
stops them. The others wait for a moment before they print, so that the cause, and not its
consequences, is the first message on the screen.

A signal is only a request while a run trains (`StopSignals`): the step is finished and saved first.
Exit codes: 0 done, 1 failed, 128 + n stopped by signal n, the same on every rank.
"""

import contextlib
import errno
import json
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, Self, TypeVar

import torch.distributed as dist

from recognition.distributed import Process, World, from_main, gather
from recognition.redaction import printable, redact

Result = TypeVar("Result")

log = logging.getLogger(__name__)
# Its lines go to `log.txt` alone, for what stands on the screen in another form.
file_log = logging.getLogger("log.txt")

# What gloo's errors say when a peer is gone; NCCL's errors have their own class.
_LOST_PEER = (
    "connection closed by peer",
    "connection reset by peer",
    "connection refused",
    "broken pipe",
    "socket closed",
    "caused pair closure",
    "timed out waiting",
)

# What the user calls it, and what helps.
_OS_ERRORS = {
    errno.ENOSPC: ("disk full", "free some space, or use another disk"),
    errno.EDQUOT: ("quota exceeded", "free some space, or ask for more"),
    errno.EROFS: ("read-only file system", "use another folder, or mount it for writing"),
    errno.EACCES: ("no permission", "change the owner or mode, or use another folder"),
    errno.EPERM: ("no permission", "change the owner or mode, or use another folder"),
    errno.EIO: ("input/output error", "look at the disk, or the network it is reached by"),
    errno.EEXIST: ("a file is in the way of a folder", "use another folder"),
    errno.ENOTDIR: ("a file is in the way of a folder", "use another folder"),
}

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
# Two Ctrl-C closer than this are one: a terminal and a launcher may both send it.
_SAME_INTERRUPT = 0.5  # seconds
_BEFORE_TRAINING = "training had not begun, so there is nothing to save"
_START_ENDS_WITHIN = 2.0  # seconds after a signal; a blocking call may not notice it


def on_main(action: Callable[[], Result], path: Path, kind: type[ValueError]) -> Result:
    """Return what `action` returns on rank 0, on all ranks; its error is raised on all of them.

    Collective. An `OSError` becomes a `kind` that says what happened, at `path` unless the error
    has a path; a `kind` is raised as it is. Anything else ends rank 0 alone.
    """
    result: Result | None = None
    message = ""
    if not dist.is_initialized() or dist.get_rank() == 0:
        try:
            result = action()
        except OSError as error:
            message = describe_os_error(Path(error.filename or path), error)
        except kind as error:
            message = str(error)
    result, message = from_main((result, message))
    if message:
        raise kind(message)
    return result  # type: ignore[return-value]


def together(action: Callable[[], Result]) -> Result:
    """Return what `action` returns on this rank; a `ValueError` or `OSError` of any ends all ranks.

    Collective. `action` must not be, unless its collectives raise what they raise on all ranks, as
    this one does. On a rank without an error of its own it is a `ValueError`
    with the message of the first rank that has one.
    """
    result: Result | None = None
    found: ValueError | OSError | None = None
    try:
        result = action()
    except (ValueError, OSError) as error:
        found = error
    messages = gather(None if found is None else str(found))
    if found is not None:
        raise found
    for rank, message in enumerate(messages):
        if message is not None:
            raise ValueError(f"rank {rank}: {message}")
    return result  # type: ignore[return-value]


def describe_os_error(path: Path, error: OSError) -> str:
    """Return one line for the user: the path, what is wrong with it, how much is free, the fix."""
    found, fix = _OS_ERRORS.get(error.errno or 0, (error.strerror or str(error), ""))
    free = _free_space(path)
    return f"{path}: {found}{f' ({free} free there)' if free else ''}{f'; {fix}' if fix else ''}"


def _free_space(path: Path) -> str:
    """Return how much is free on the disk of `path`, or of the nearest folder that exists."""
    for folder in (path, *path.absolute().parents):
        with contextlib.suppress(OSError):
            disk = os.statvfs(folder)
            if disk.f_files and not disk.f_favail:
                return "no inode"
            free = disk.f_bavail * disk.f_frsize
            return f"{free / 2**20:,.0f} MiB" if free < 2**30 else f"{free / 2**30:,.1f} GiB"
    return ""


class StoppedBySignal(BaseException):
    """A signal ended the run. No `Exception`, so that nothing on the way takes it for an error."""

    def __init__(self, number: int, text: str) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}: {text}")
        self.number = number


class StopSignals:
    """Makes SIGTERM, SIGUSR1 and the first Ctrl-C a request while a run trains: a context manager.

    Before, they raise `StoppedBySignal` at once; after, nothing: the process is ending anyway. A
    second Ctrl-C always ends the process, as does a signal when a rank of this machine is gone,
    without which no step can be finished. A thread does that, since a main thread that waits for
    another rank or for a GPU notices no signal.
    """

    def __init__(self, world: World) -> None:
        self.requested = 0  # number of the first signal since training began, 0 if none
        self.peers: Sequence[Process] = ()  # the processes of all ranks, once they are known
        self._world = world
        self._state = "starting"  # then "training", then "ending"
        self._previous: dict[int, Any] = {}
        self._received, self._sender = socket.socketpair()
        self._watcher = threading.Thread(target=self._watch, name="signals", daemon=True)

    def __enter__(self) -> Self:
        self._sender.setblocking(False)
        signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)
        self._previous = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        self._watcher.start()
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(-1)
        self._sender.close()  # which ends the thread
        self._watcher.join(1.0)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Within the block, a signal is a request, for the trainer to act on."""
        self._state = "training"
        try:
            yield
        finally:
            self._state = "ending"

    def _handle(self, number: int, frame: FrameType | None) -> None:
        first = not self.requested
        self.requested = self.requested or number
        if first and self._state == "starting":
            raise StoppedBySignal(number, _BEFORE_TRAINING)

    def _watch(self) -> None:
        asked, interrupted, number = 0.0, 0.0, 0
        while True:
            ready, _, _ = select.select([self._received], [], [], 0.5 if number else None)
            now = time.monotonic()
            if ready:
                received = self._received.recv(1)
                if not received:
                    self._received.close()
                    return
                if received[0] == signal.SIGINT:
                    if interrupted and now - interrupted > _SAME_INTERRUPT:
                        self._end_now(signal.SIGINT, "Ctrl-C came again, so nothing is saved")
                    interrupted = interrupted or now
                if not number and received[0] in _SIGNALS:
                    asked, number = now, received[0]
                    if self._state == "training" and self._world.is_main:
                        name = signal.Signals(number).name
                        log.warning("%s: finishing this step, then saving and ending", name)
            if number and self._state == "training":
                if any(peer.has_ended() for peer in self.peers):
                    self._end_now(number, "another rank is gone, so this step cannot be finished")
            elif number and self._state == "starting" and now - asked > _START_ENDS_WITHIN:
                self._end_now(number, _BEFORE_TRAINING)

    def _end_now(self, number: int, text: str) -> NoReturn:
        if self._world.is_main:
            report(str(StoppedBySignal(number, text)), self._world)
        os._exit(128 + number)


def report_and_exit(error: BaseException, world: World) -> NoReturn:
    """Print what ended this rank and end its process with a non-zero code.

    A `ValueError` is for the user: only its message is shown. Anything else is a bug or a fault of
    the machine and is shown with its traceback. With several ranks, `torchrun` repeats the message
    of the first rank that failed in its closing summary.
    """
    if isinstance(error, SystemExit):
        sys.exit(error.code)
    if isinstance(error, StoppedBySignal):
        if world.is_main:
            report(str(error), world)
        _tell_torchrun(str(error))
        _end(128 + error.number, world)
    for number in _SIGNALS:  # torchrun ends the other ranks of one that failed: at once, then
        signal.signal(number, signal.SIG_DFL)
    lost = _lost_a_peer(error)
    if lost:
        text = f"lost contact with another rank; see that rank's message ({_first_line(error)})"
        if world.is_main:
            file_log.error(text)
        time.sleep(3.0)  # the peer's own message, or torchrun's signal, comes first
    elif isinstance(error, ValueError):
        if world.rank > 0:
            time.sleep(1.0)  # if rank 0 has the same error, it reports it first
        text = str(error)
    else:
        text = "".join(traceback.format_exception(error))
    text = printable(redact(text))
    report(f"error: {text}", world, to_file=not lost)
    if not lost:
        short = f"{type(error).__name__}: {printable(redact(str(error)))}"
        _tell_torchrun(text if isinstance(error, ValueError) else short)
    _end(1, world)


def report(text: str, world: World, *, to_file: bool = True) -> None:
    """Print the last message of a rank, and write it to `log.txt`."""
    prefix = f"rank {world.rank}: " if world.size > 1 else ""
    print(f"\n{prefix}{text}", file=sys.stderr, flush=True)
    if to_file:
        file_log.error(text)


def _tell_torchrun(text: str) -> None:
    """Have torchrun end its summary, the last thing on the screen, with this text.

    What torch would record is a traceback, which this rank has printed if it is of any use.
    """
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if file is None:
        return
    details = {"py_callstack": text, "timestamp": str(int(time.time()))}
    with contextlib.suppress(OSError):  # without this file the summary is only shorter
        Path(file).write_text(json.dumps({"message": {"message": text, "extraInfo": details}}))


def _end(code: int, world: World) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    if world.size == 1:
        sys.exit(code)
    # Not sys.exit: destructors of process groups may wait for the other ranks forever.
    os._exit(code)


def _lost_a_peer(error: BaseException) -> bool:
    if isinstance(error, dist.DistError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(sign in text for sign in _LOST_PEER)


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
