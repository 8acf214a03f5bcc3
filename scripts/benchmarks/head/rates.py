"""What the machine can do: the rates that a head's step is compared with."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from scripts.benchmarks.head.cases import DTYPES, MIB

Result = TypeVar("Result")

REPEATS = 9


@dataclass(frozen=True)
class Rates:
    """Measured limits of the machine."""

    flops: dict[str, float]  # per second of square matrix products, by dtype
    copy: float  # bytes per second of copying memory, both those read and those written


def measure_rates(
    dtypes: tuple[str, ...], device: torch.device, threads: int, *, small: bool = False
) -> Rates:
    """Measure with `threads` CPU threads: medians of several runs, after a warm-up.

    `small` takes a tenth of a second, for rehearsals: matrices and copies then fit the caches.
    """
    torch.set_num_threads(threads)
    cuda = device.type == "cuda"
    flops = {}
    for dtype in dtypes:
        size = 256 if small else 8192 if cuda else 2048
        left = torch.randn(size, size, device=device).to(DTYPES[dtype])
        right, out = torch.randn_like(left), torch.empty_like(left)
        seconds = _median_seconds(lambda: torch.mm(left, right, out=out), device)  # noqa: B023
        flops[dtype] = 2 * size**3 / seconds
    mebibytes = 1 if small else 4096 if cuda else 512
    source = torch.ones(mebibytes * MIB // 4, device=device)
    return Rates(flops, 2 * source.nbytes / copy_seconds(source, torch.zeros_like(source), device))


def copy_seconds(source: torch.Tensor, target: torch.Tensor, device: torch.device) -> float:
    """Return the seconds of a copy, the median of several; `device` is that of either tensor."""
    return _median_seconds(lambda: target.copy_(source), device)


def timed(action: Callable[[], Result], device: torch.device) -> tuple[float, Result]:
    """Return the seconds of an action, including what it started on a GPU, and its result."""
    _synchronize(device)
    started = time.perf_counter()
    result = action()
    _synchronize(device)
    return time.perf_counter() - started, result


def _median_seconds(action: Callable[[], object], device: torch.device) -> float:
    return statistics.median([timed(action, device)[0] for _ in range(REPEATS + 2)][2:])


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
