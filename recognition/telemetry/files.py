"""Files of a run that may fail: training goes on, with a warning. `metrics.jsonl` is one."""

import json
import logging
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from recognition.failure import describe_os_error
from recognition.redaction import redact

log = logging.getLogger("recognition")

WARNED_EVERY = 60.0  # seconds between two warnings about one file


class LostWrites:
    """Counts writes that failed, to a file or to what has a name, and warns, but not for each."""

    def __init__(self, path: Path | str, unit: str) -> None:
        self.path, self.unit = path, unit
        self.count = 0
        self._next_warning = -float("inf")

    def add(self, error: Exception) -> None:
        """Count one; warn if the last warning is long enough ago."""
        self.count += 1
        if time.monotonic() >= self._next_warning:
            self._next_warning = time.monotonic() + WARNED_EVERY
            what = f"{self.path}: {redact(str(error)) or type(error).__name__}"
            if isinstance(error, OSError) and isinstance(self.path, Path):
                what = describe_os_error(self.path, error)
            log.warning("%s. Training goes on; %d %s lost so far", what, self.count, self.unit)

    def report(self) -> None:
        """Say at the end how many were lost, if any."""
        if self.count:
            log.warning("%s: %d %s lost, as writing failed", self.path, self.count, self.unit)


def append(file: Path, content: bytes) -> None:
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


class MetricsFile:
    """`metrics.jsonl`: one JSON object per line, the complete record of a run's figures."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lost = LostWrites(path, "records")

    def begin(self, last_step: int) -> None:
        """Drop records after `last_step`, which a resumed run will write again; of a new run, all.

        Raises `ValueError` if the file cannot be written; it is then as it was.
        """
        if not self.path.exists():
            return
        try:
            kept = [
                line for line in self.path.read_bytes().splitlines() if _step(line) <= last_step
            ]
            rest = self.path.with_name(f".{self.path.name}.new")
            rest.write_bytes(b"".join(line + b"\n" for line in kept if last_step))
            rest.replace(self.path)
        except OSError as error:
            raise ValueError(describe_os_error(self.path, error)) from None

    def write(self, event: str, step: int, values: Mapping[str, Any]) -> None:
        """Append one object."""
        line = json.dumps({"event": event, "step": step, **values}) + "\n"
        try:
            append(self.path, line.encode())
        except OSError as error:
            self.lost.add(error)


def _step(line: bytes) -> float:
    """Return the step of a record; of a line that a crash cut short, infinity."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Return the numbers in nested mappings under joined names; other values are left out."""
    flat: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{name}/"))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            flat[prefix + name] = float(value)
    return flat
