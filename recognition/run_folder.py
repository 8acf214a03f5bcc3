"""The folder of a run: one process group at a time may use it, and a failed start leaves no trace.

A lock is a file `.lock.N` with its owner; who creates the file of the next number has the lock.
That works on shared disks too, where creating a file is the one thing that only one can do. An
owner of this machine is looked up by process id and start; the lock of another machine counts as
long as its owner touches the file.

Nothing else is written before `RunFolder.begin`: everything that can be refused comes before it.
"""

import json
import logging
import os
import platform
import secrets
import shlex
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import torch

from recognition import __version__
from recognition.checkpoint import latest
from recognition.distributed import Process, World, current_attempt, gather
from recognition.failure import on_main
from recognition.telemetry import open_log

log = logging.getLogger(__name__)

TOUCHED_EVERY = 30.0  # seconds
ABANDONED_AFTER = 240.0  # seconds without a touch, after which another machine may take a lock

_LOCK = ".lock."
_LAUNCH = ".launch"  # names the `torchrun` that started the run


class RunFolderError(ValueError):
    """A run folder that cannot be used: by another process, of an earlier run, not writable."""


@dataclass(frozen=True)
class Owner:
    """Who holds a lock."""

    process: Process
    since: str  # date and time, for people
    launch: str  # the `torchrun` that started it, empty without one
    attempt: int  # how often that has restarted its workers

    @classmethod
    def this(cls) -> "Owner":
        """Return this process."""
        now = datetime.now().astimezone().isoformat(" ", "seconds")
        return cls(Process.of(os.getpid()), now, current_launch(), current_attempt())

    def to_json(self) -> str:
        """Return it as one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Owner":
        """Return what `to_json` wrote. Raises `ValueError` for anything else."""
        try:
            values = json.loads(text)
            return cls(**(values | {"process": Process(**values["process"])}))
        except (KeyError, TypeError) as error:
            raise ValueError(f"names no owner: {error!r}") from None


def current_launch() -> str:
    """Return what all attempts of one `torchrun` have in common; empty without it."""
    run_id = os.environ.get("TORCHELASTIC_RUN_ID", "")
    if run_id != "none":  # what several nodes have without --rdzv-id
        return run_id
    agent = Process.of(os.getppid())
    return f"{agent.host} {agent.machine} {agent.pid} {agent.start}"


class Lock:
    """Rank 0's lock on a folder that exists."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.owner = Owner.this()
        self._file = folder / _LOCK
        self._released = threading.Event()

    def acquire(self) -> None:
        """Take the lock. Raises `RunFolderError` with its owner if somebody else has it."""
        while not self._released.is_set():
            found = lock_files(self.folder)
            self._refuse(found)
            self._file = self.folder / f"{_LOCK}{max(found.values(), default=0) + 1}"
            try:
                self._create()
            except FileExistsError:
                continue  # somebody else was faster: look again
            # Whoever looked before a lock was taken, and created after it was released, sees it.
            others = {file: n for file, n in lock_files(self.folder).items() if file != self._file}
            try:
                self._refuse(others)
            except RunFolderError:
                self._file.unlink(missing_ok=True)
                raise
            for file in others:
                file.unlink(missing_ok=True)
            threading.Thread(target=self._touch, name="lock", daemon=True).start()
            return

    def release(self) -> None:
        """Give the lock back."""
        self._released.set()
        with suppress(OSError):
            if self._file.read_text() == self.owner.to_json():
                self._file.unlink()

    def _create(self) -> None:
        with self._file.open("x") as stream:
            stream.write(self.owner.to_json())

    def _refuse(self, files: Mapping[Path, int]) -> None:
        for file in files:
            owner = _read(file)
            if self._counts(file, owner):
                who = "a process that is starting"
                if owner is not None:
                    who = f"process {owner.process.pid} on {owner.process.host}"
                    who += f", which started at {owner.since}"
                raise RunFolderError(
                    f"{self.folder} is in use by {who}: stop that process first, or choose another "
                    "folder with --output. If its machine has failed, the folder is free "
                    f"{ABANDONED_AFTER / 60:.0f} minutes after that"
                )

    def _counts(self, file: Path, owner: Owner | None) -> bool:
        """Return whether a lock is still held."""
        if owner is not None:
            # torchrun has ended all workers of an attempt before it starts the next.
            earlier = owner.launch == self.owner.launch and owner.attempt < self.owner.attempt
            ended = bool(self.owner.launch and earlier) or owner.process.has_ended()
            if ended is not None:
                return not ended
        try:
            return self._now() - file.stat().st_mtime < ABANDONED_AFTER
        except FileNotFoundError:
            return False  # released meanwhile

    def _now(self) -> float:
        """Return the time on the clock that stamps this folder's files: a server may have it."""
        probe = self.folder / f"{_LOCK}clock.{secrets.token_hex(8)}"
        with probe.open("x"):
            pass
        try:
            return probe.stat().st_mtime
        finally:
            probe.unlink()

    def _touch(self) -> None:
        while not self._released.wait(TOUCHED_EVERY):
            try:
                os.utime(self._file)
            except FileNotFoundError:
                if lock_files(self.folder):  # taken over: this process was thought dead
                    print(f"\nerror: another process took {self.folder}", file=sys.stderr)
                    os._exit(1)
                with suppress(OSError):
                    self._create()
            except OSError:
                pass  # tried again at the next turn


def lock_files(folder: Path) -> dict[Path, int]:
    """Return the lock files in a folder with their numbers."""
    names = {item: item.name.removeprefix(_LOCK) for item in folder.glob(f"{_LOCK}*")}
    return {item: int(number) for item, number in names.items() if number.isdecimal()}


def _read(file: Path) -> Owner | None:
    """Return the owner in a lock file; None if it is gone, or not written within a second."""
    for _ in range(10):
        try:
            return Owner.from_json(file.read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            time.sleep(0.1)
    return None


class RunFolder:
    """A run's folder, for this run alone: a context manager, on all ranks alike.

    Entering locks the folder. Leaving releases it; without `begin`, also what entering created is
    removed again. `resume` is what the command line says, and after entering what it means: a run
    that `torchrun` has restarted continues from its own checkpoints.
    """

    def __init__(self, path: Path, world: World, resume: str | None) -> None:
        self.path = path
        self.resume = resume
        self._world = world
        self._lock: Lock | None = None
        self._created: list[Path] = []  # the folder and its parents that entering made
        self._begun = False

    def __enter__(self) -> Self:
        try:
            self.resume = on_main(self._open, self.path, RunFolderError)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._close()

    def begin(self, files: Mapping[str, str], device: torch.device) -> list[Process]:
        """Write the first files, by name, and open `log.txt`, when every rank has got here.

        Return the processes of all ranks. Raises `RunFolderError` on all of them when a file
        cannot be written.
        """
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        ranks = gather((Process.of(os.getpid()), name))
        on_main(lambda: self._write(files), self.path, RunFolderError)
        if not self._world.is_main:
            open_log(self._world, self.path / "log.txt")
        for line in _describe_run(ranks):
            log.info(line)
        return [process for process, _ in ranks]

    def _open(self) -> str | None:
        path = self.path
        self._created = [item for item in (path, *path.parents) if not item.exists()]
        path.mkdir(parents=True, exist_ok=True)
        self._lock = Lock(path)
        self._lock.acquire()
        # Appending to a link would write to whatever file a stranger's folder names.
        links = [item.name for item in path.iterdir() if item.is_symlink() and not item.is_dir()]
        if links:
            raise RunFolderError(
                f"{path}: {', '.join(sorted(links))} is a link, expected files of this folder: "
                "remove it, or choose another folder with --output"
            )
        used = any(not item.name.startswith(_LOCK) for item in path.iterdir())
        if self._is_restarted():
            return "auto" if latest(path / "checkpoints") or not self.resume else self.resume
        if used and self.resume is None:
            raise RunFolderError(
                f"{path} holds an earlier run: continue it with --resume auto, or choose another "
                "folder with --output"
            )
        return self.resume

    def _is_restarted(self) -> bool:
        """Return whether `torchrun` has restarted this very run, and not another's start here."""
        launch = self.path / _LAUNCH
        return current_attempt() > 0 and launch.exists() and launch.read_text() == current_launch()

    def _write(self, files: Mapping[str, str]) -> None:
        launch = current_launch()
        texts = {**files, **({_LAUNCH: launch} if launch else {})}
        token = secrets.token_hex(8)
        temporary = {name: self.path / f".{name}.{token}" for name in texts}
        try:
            for name, text in texts.items():
                with temporary[name].open("x") as stream:  # never what somebody put there
                    stream.write(text)
            open_log(self._world, self.path / "log.txt")
        except OSError:
            for file in temporary.values():
                with suppress(OSError):
                    file.unlink(missing_ok=True)
            raise
        self._begun = True
        for name, file in temporary.items():
            file.replace(self.path / name)

    def _close(self) -> None:
        if self._lock is not None:
            self._lock.release()
        if not self._begun:
            for folder in self._created:
                with suppress(OSError):  # not empty: somebody else's
                    folder.rmdir()


def _describe_run(ranks: list[tuple[Process, str]]) -> list[str]:
    """Return what is asked afterwards: the command, versions, and where each rank was."""
    attempt = f" (attempt {current_attempt() + 1} of torchrun)" if current_attempt() else ""
    lines = [
        f"command: {shlex.join(sys.argv)}{attempt}, in {os.getcwd()}",
        f"partialfc {__version__}, torch {torch.__version__}, python {platform.python_version()}, "
        f"{platform.platform()}",
    ]
    for host in dict.fromkeys(process.host for process, _ in ranks):
        places = [
            f"rank {rank} is process {process.pid} on {device}"
            for rank, (process, device) in enumerate(ranks)
            if process.host == host
        ]
        lines.append(f"{host}: {', '.join(places)}")
    return lines


def changed_settings(old: Any, new: Any, name: str = "") -> list[str]:
    """Return `key was old and is new` for each setting in which two configs differ."""
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return [] if old == new else [f"{name} was {old} and is {new}"]
    changes = []
    for key in dict.fromkeys([*old, *new]):
        inner = f"{name}.{key}" if name else str(key)
        changes += changed_settings(old.get(key), new.get(key), inner)
    return changes
