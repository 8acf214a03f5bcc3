"""What the machine can do: rates that a head's step is held against."""

import statistics
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch

from scripts.benchmarks.head.cases import DTYPES, MIB

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
