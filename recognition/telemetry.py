"""What a person sees of a run: log lines, a progress bar, `metrics.jsonl`, TensorBoard.

Rank 0 writes; on the other ranks every method does nothing. The same numbers go to
`metrics.jsonl`, one JSON object per line, and to TensorBoard, so the file holds everything that a
dashboard shows.
"""

import json
import logging
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from recognition.distributed import World
from recognition.redaction import redact

log = logging.getLogger("recognition")


class _Formatter(logging.Formatter):
    """Removes secrets from whatever any library logs, tracebacks included."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def configure_logging(world: World, file: Path | None = None) -> None:
    """Send log lines to the terminal, and on rank 0 to `file`; other ranks only warn."""
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if file is not None and world.is_main:
        handlers.append(logging.FileHandler(file))
    prefix = "" if world.is_main else f"rank {world.rank}: "
    formatter = _Formatter(f"%(asctime)s {prefix}%(message)s", datefmt="%H:%M:%S")
    for handler in handlers:
        handler.setFormatter(formatter)
    logging.basicConfig(
        level=logging.INFO if world.is_main else logging.WARNING, handlers=handlers, force=True
    )


class Telemetry:
    """Writes a run's numbers. A context manager: leaving it flushes and closes everything.

    `first_step` steps are done already: records of later steps, from an earlier attempt, are
    dropped, so that the history has one value per step.
    """

    def __init__(
        self, output: Path, *, world: World, first_step: int, total_steps: int, progress: bool
    ) -> None:
        self.enabled = world.is_main
        self._metrics = output / "metrics.jsonl"
        self._first_step = first_step
        self._board: SummaryWriter | None = None
        self._bar: tqdm[Any] | None = None
        self._redirect = logging_redirect_tqdm()
        if not self.enabled:
            return
        _truncate(self._metrics, first_step)
        purge = first_step + 1 if first_step else None
        self._board = SummaryWriter(str(output / "tensorboard"), purge_step=purge)
        self._bar = tqdm(
            total=total_steps, initial=first_step, unit="step", dynamic_ncols=True,
            disable=not progress, mininterval=1.0,
        )  # fmt: skip

    def __enter__(self) -> Self:
        self._redirect.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        if self._board is not None:
            self._board.close()
        self._redirect.__exit__(kind, error, traceback)

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

    def record(self, event: str, step: int, values: Mapping[str, Any], tag: str = "") -> None:
        """Append one object to `metrics.jsonl` and its numbers to TensorBoard.

        TensorBoard shows them as `event/name`, or `event/tag/name`, grouped by the first part.
        """
        if self._board is None:
            return
        with self._metrics.open("a") as stream:
            stream.write(json.dumps({"event": event, "step": step, **values}) + "\n")
        prefix = f"{event}/{tag}/" if tag else f"{event}/"
        for name, value in _flatten(values).items():
            self._board.add_scalar(prefix + name, value, step)
        self._board.flush()

    def images(self, tag: str, images: Tensor, step: int) -> None:
        """Show a grid of images, float [b, 3, S, S] in 0 … 1."""
        if self._board is not None:
            self._board.add_images(tag, images, step)

    def text(self, tag: str, text: str) -> None:
        """Show a text, such as the config, on the dashboard."""
        if self._board is not None:
            self._board.add_text(tag, f"```\n{text}\n```")


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
    """Drop records after `last_step`, which a resumed run will write again."""
    if not metrics.exists():
        return
    kept = []
    for line in metrics.read_text().splitlines():
        try:
            step = json.loads(line)["step"]
        except (ValueError, KeyError):
            continue  # a line truncated by a crash
        if step <= last_step:
            kept.append(line + "\n")
    metrics.write_text("".join(kept))


class Meter:
    """Times and figures between two log lines."""

    def __init__(self) -> None:
        self.waited = 0.0  # seconds, for data
        self.paused = 0.0  # seconds of verification and saving, which do not count as training
        self.images = 0  # over all ranks
        self.steps = 0
        self.last: dict[str, Tensor] = {}  # figures of the last step only, on the device
        self._sums: dict[str, Tensor | float] = {}
        self._start = time.perf_counter()

    def add(self, **values: Tensor | float) -> None:
        """Add parts of a step's figures; tensors stay on the device."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def values(self) -> dict[str, float]:
        """Return the means over the steps, and the last step's figures. Waits for the device."""
        means = {name: float(total) / self.steps for name, total in self._sums.items()}
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
