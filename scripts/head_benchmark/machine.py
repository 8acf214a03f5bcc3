"""What the machine is, and what it can do: rates that a head's step is held against."""

import os
import platform
import statistics
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from recognition.version import __version__
from scripts.head_benchmark.cases import DTYPES, MIB

ROOT = Path(__file__).parents[2]
REPEATS = 9


@dataclass(frozen=True)
class Rates:
    """Measured limits of the machine.

    Attributes:
        flops: operations a second of square matrix products, by dtype; two a multiplication.
        copy: bytes a second of copying memory, read and written counted both.
    """

    flops: dict[str, float]
    copy: float

    def to_json(self) -> dict[str, Any]:
        """Return the fields, for a JSON file."""
        return asdict(self)


def measure_rates(dtypes: tuple[str, ...], device: torch.device, threads: int) -> Rates:
    """Measure with `threads` CPU threads: medians of several, after a warm-up."""
    torch.set_num_threads(threads)
    cuda = device.type == "cuda"
    flops = {}
    for dtype in dtypes:
        size = 8192 if cuda else 2048
        left = torch.randn(size, size, device=device).to(DTYPES[dtype])
        right, out = torch.randn_like(left), torch.empty_like(left)
        seconds = _median_seconds(lambda: torch.mm(left, right, out=out), device)  # noqa: B023
        flops[dtype] = 2 * size**3 / seconds
    source = torch.ones((4096 if cuda else 512) * MIB // 4, device=device)
    target = torch.zeros_like(source)
    seconds = _median_seconds(lambda: target.copy_(source), device)
    return Rates(flops, 2 * source.numel() * source.itemsize / seconds)


def _median_seconds(action: Any, device: torch.device) -> float:
    times = []
    for _ in range(REPEATS + 2):
        synchronize(device)
        started = time.perf_counter()
        action()
        synchronize(device)
        times.append(time.perf_counter() - started)
    return statistics.median(times[2:])


def synchronize(device: torch.device) -> None:
    """Wait for all that was started on a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def describe(device: torch.device, threads: int) -> dict[str, Any]:
    """Return what a reader needs to place the figures: device, versions, commit."""
    versions = {
        "partialfc": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        versions["cuda"] = str(torch.version.cuda)
    else:
        name = _cpu_name()
    return {
        "device": name,
        "cores": os.cpu_count(),
        "threads": threads,
        "versions": versions,
        "commit": _commit(),
    }


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """Return the commit of this clone, marked where files differ from it; None without git."""
    try:
        commit = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + (" with changes" if changed else "")


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.strip()
