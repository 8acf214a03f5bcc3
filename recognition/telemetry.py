"""What a person sees of a run: log lines, a progress bar, `metrics.jsonl`, TensorBoard.

Rank 0 writes; on the other ranks every method does nothing. The same numbers go to
`metrics.jsonl`, one JSON object per line, and to TensorBoard, so the file holds everything that a
dashboard shows. Training goes on when a write fails, with a warning.
"""

import json
import logging
import os
import resource
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from io import BytesIO
from logging.handlers import MemoryHandler
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, Self

import torch
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch import Tensor
from torch.utils.tensorboard import summary
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from recognition.distributed import World
from recognition.failure import describe_os_error, file_log
from recognition.redaction import printable, redact

log = logging.getLogger("recognition")

WARNED_EVERY = 60.0  # seconds between two warnings about one file


class LostWrites:
    """Counts writes to a file that failed, and warns, but not for each."""

    def __init__(self, path: Path, unit: str) -> None:
        self.path, self.unit = path, unit
        self.count = 0
        self._next_warning = -float("inf")

    def add(self, error: OSError) -> None:
        """Count one; warn if the last warning is long enough ago."""
        self.count += 1
        if time.monotonic() >= self._next_warning:
            self._next_warning = time.monotonic() + WARNED_EVERY
            what = describe_os_error(self.path, error)
            log.warning("%s. Training goes on; %d %s lost so far", what, self.count, self.unit)

    def report(self) -> None:
        """Say at the end how many were lost, if any."""
        if self.count:
            log.warning("%s: %d %s lost, as writing failed", self.path, self.count, self.unit)


class _Formatter(logging.Formatter):
    """Makes fit to be shown whatever any library logs, tracebacks included."""

    def __init__(self, world: World, time_format: str) -> None:
        prefix = "" if world.is_main else f"rank {world.rank}: "
        super().__init__(f"%(asctime)s {prefix}%(message)s", time_format)

    def format(self, record: logging.LogRecord) -> str:
        return printable(redact(super().format(record)))


class _LogFile(logging.FileHandler):
    """A log file that may fail: logging itself would print a traceback for each line."""

    def __init__(self, path: Path, *, delay: bool = False) -> None:
        super().__init__(path, delay=delay, encoding="utf-8")
        self._lost = LostWrites(path, "lines")

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            self._lost.add(error)
        else:
            super().handleError(record)


def configure_logging(world: World) -> None:
    """Send log lines to the terminal, on rank 0 warnings of libraries too; other ranks only warn.

    Rank 0 also keeps them in memory, for `open_log`.
    """
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    handlers[0].setFormatter(_Formatter(world, "%T"))
    if world.is_main:
        handlers.append(MemoryHandler(1 << 20, flushLevel=sys.maxsize, flushOnClose=False))
    logging.basicConfig(
        level=logging.INFO if world.is_main else logging.WARNING, handlers=handlers, force=True
    )
    logging.captureWarnings(world.is_main)
    file_log.propagate = False
    file_log.handlers = [logging.NullHandler()]


def open_log(world: World, file: Path) -> None:
    """Write rank 0's log lines to `file`, earlier ones included; of other ranks their last error.

    Raises `OSError` if the file cannot be written.
    """
    handler = _LogFile(file, delay=not world.is_main)
    handler.setFormatter(_Formatter(world, "%F %T"))
    file_log.handlers = [handler]
    for earlier in logging.root.handlers:
        if isinstance(earlier, MemoryHandler):
            earlier.setTarget(handler)
            earlier.flush()
            logging.root.handlers[logging.root.handlers.index(earlier)] = handler


class VerificationRecord(Protocol):
    """The result of one verification set. Lives in `eval/`, which is not imported here."""

    @property
    def accuracy(self) -> float | None:
        """Flip-averaged accuracy, 0 … 1; None for a set that has none."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Return all figures as plain values, the set's name under `set`."""
        ...

    def summary(self) -> str:
        """Return one line for the log."""
        ...


class Telemetry:
    """Writes a run's numbers. A context manager: entering opens the files, leaving closes them.

    Set `first_step` before entering, if that many steps are done already: records of later steps,
    from an earlier attempt, are dropped, so that the history has one value per step.
    """

    def __init__(self, output: Path, *, world: World, total_steps: int) -> None:
        self.enabled = world.is_main
        self.first_step = 0
        self._total_steps = total_steps
        self._metrics = output / "metrics.jsonl"
        self._lost_records = LostWrites(self._metrics, "records")
        self._board = _Board(output / "tensorboard")
        self._bar: tqdm[Any] | None = None
        self._redirect = logging_redirect_tqdm()

    def __enter__(self) -> Self:
        if self.enabled:
            _truncate(self._metrics, self.first_step)
            # TensorBoard then drops what earlier attempts wrote from this step on.
            start = SessionLog(status=SessionLog.START)
            first = self.first_step + 1 if self.first_step else 0
            self._board.write([Event(step=first, session_log=start)])
            self._bar = tqdm(
                total=self._total_steps, initial=self.first_step, unit="step", dynamic_ncols=True,
                disable=None, mininterval=1.0,
            )  # fmt: skip
        self._redirect.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()
        self._redirect.__exit__(None, None, None)
        self._lost_records.report()
        self._board.lost.report()

    def advance(self) -> None:
        """Advance the progress bar by one step."""
        if self._bar is not None:
            self._bar.update()

    def train(self, step: int, values: Mapping[str, float], line: str) -> None:
        """Record the figures of the steps since the last record; `line` goes to the log."""
        self.record("train", step, values)
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {values['loss']:.3f}", refresh=False)
        log.info(line)

    def verification(
        self, step: int, results: Sequence[VerificationRecord], *, averaged: bool = False
    ) -> None:
        """Record the figures of all sets; those of `averaged` weights as `verification_ema`."""
        for result in results:
            values = result.to_json()
            event = "verification_ema" if averaged else "verification"
            self.record(event, step, values, tag=values["set"])
            of_what = ", averaged weights" if averaged else ""
            log.info("step %d%s | %s", step, of_what, result.summary())

    def record(self, event: str, step: int, values: Mapping[str, Any], tag: str = "") -> None:
        """Append one object to `metrics.jsonl` and its numbers to TensorBoard.

        TensorBoard shows them as `event/name`, or `event/tag/name`, grouped by the first part.
        """
        if not self.enabled:
            return
        line = json.dumps({"event": event, "step": step, **values}) + "\n"
        try:
            _append(self._metrics, line.encode())
        except OSError as error:
            self._lost_records.add(error)
        prefix = f"{event}/{tag}/" if tag else f"{event}/"
        scalars = {prefix + name: value for name, value in _flatten(values).items()}
        self._board.show(step, [summary.scalar(*pair) for pair in scalars.items()])  # type: ignore[no-untyped-call]

    def images(self, tag: str, images: Tensor, step: int) -> None:
        """Show a grid of images, float [b, 3, S, S] in 0 … 1."""
        if self.enabled:
            self._board.show(step, [summary.image(tag, images)])  # type: ignore[no-untyped-call]

    def text(self, tag: str, text: str) -> None:
        """Show a text, such as the config, on the dashboard."""
        if self.enabled:
            self._board.show(0, [summary.text(tag, f"```\n{text}\n```")])  # type: ignore[no-untyped-call]


class _Board:
    """A file of TensorBoard's events.

    Not torch's `SummaryWriter`: that writes from a thread, which one failed write ends for good,
    with half an event in the file.
    """

    def __init__(self, folder: Path) -> None:
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
        self._file = folder / name
        self.lost = LostWrites(self._file, "records")

    def show(self, step: int, summaries: list[Summary]) -> None:
        """Append summaries of a step."""
        now = time.time()
        self.write([Event(step=step, wall_time=now, summary=item) for item in summaries])

    def write(self, events: list[Event]) -> None:
        """Append events, all or none."""
        buffer = BytesIO()
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            if not self._file.exists():
                events = [Event(wall_time=time.time(), file_version="brain.Event:2"), *events]
            for event in events:
                RecordWriter(buffer).write(event.SerializeToString())
            _append(self._file, buffer.getvalue())
        except OSError as error:
            self.lost.add(error)


def _append(file: Path, content: bytes) -> None:
    """Append all of `content` to a file, or nothing: no part of a record stays behind."""
    with file.open("ab", buffering=0) as stream:
        end = stream.seek(0, os.SEEK_END)
        try:
            while content:
                content = content[stream.write(content) :]
        except OSError:
            with suppress(OSError):
                stream.truncate(end)
            raise


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Return the numbers in nested mappings under joined names; other values are left out."""
    flat: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{name}/"))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            flat[prefix + name] = float(value)
    return flat


def _truncate(metrics: Path, last_step: int) -> None:
    """Drop records after `last_step`, which a resumed run will write again; of a new run, all.

    Raises `ValueError` if the file cannot be written; it is then as it was.
    """
    if not metrics.exists():
        return
    try:
        kept = [line for line in metrics.read_bytes().splitlines() if _step(line) <= last_step]
        rest = metrics.with_name(f".{metrics.name}.new")
        rest.write_bytes(b"".join(line + b"\n" for line in kept if last_step))
        rest.replace(metrics)
    except OSError as error:
        raise ValueError(describe_os_error(metrics, error)) from None


def _step(line: bytes) -> float:
    """Return the step of a record; of a line that a crash cut short, infinity."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


class Meter:
    """Times and figures between two log lines."""

    def __init__(self) -> None:
        self.waited = 0.0  # seconds, for data
        self.paused = 0.0  # seconds of verification and saving, which do not count as training
        self.images = 0  # over all ranks
        self.steps = 0
        self.last: dict[str, Tensor] = {}  # figures of the last step only, on the device
        self._sums: dict[str, Tensor | float] = {}
        self._weights: dict[str, float] = {}  # of figures that not every image has
        self._start = time.perf_counter()

    def add(
        self,
        values: Mapping[str, Tensor | float],
        weight: float = 1.0,
        fractions: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        """Add figures of a part of a step; tensors stay on the device.

        `weight` is the part of the step's images that they are means of, of all of them or, by
        name, of a fraction.
        """
        for name, value in values.items():
            if name in fractions:
                value = value * fractions[name]
                own = self._weights.get(name, 0.0) + weight * fractions[name]
                self._weights[name] = own
            self._sums[name] = self._sums.get(name, 0.0) + value * weight

    def values(self) -> dict[str, float]:
        """Return the means over the images, and the last step's figures. Waits for the device."""
        means = {
            name: float(total) / self._weights.get(name, self.steps)
            for name, total in self._sums.items()
        }
        return means | {name: float(value) for name, value in self.last.items()}

    def elapsed(self) -> float:
        """Return seconds of training since this meter was created."""
        return time.perf_counter() - self._start - self.paused

    def rates(self) -> dict[str, float]:
        """Return images per second, and the fraction of training time spent waiting for data."""
        elapsed = max(self.elapsed(), 1e-9)
        return {"images_per_second": self.images / elapsed, "data_wait": self.waited / elapsed}

    def seconds_per_step(self) -> float:
        """Return seconds of training per step."""
        return self.elapsed() / max(self.steps, 1)


def named_figures(
    results: Sequence[VerificationRecord], *, averaged: bool = False
) -> dict[str, float]:
    """Return every number as `set/figure`; of `averaged` weights as `ema/set/figure`."""
    sets = {values["set"]: values for values in (result.to_json() for result in results)}
    return _flatten(sets, "ema/" if averaged else "")


def duration(seconds: float) -> str:
    """Return seconds as `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def peak_memory_bytes(device: torch.device) -> float:
    """Return the peak memory so far: allocated on the GPU, or of this process on a CPU."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * unit
