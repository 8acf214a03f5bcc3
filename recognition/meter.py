"""Time, counts and means between two log lines."""

import resource
import sys
import time

import torch
from torch import Tensor


class Meter:
    """Time and counts between two log lines.

    Attributes:
        waited: seconds spent waiting for data: tells a starved step from a slow one.
        paused: seconds spent on verification and saving, which are no training time.
        images: images trained on, over all ranks.
        steps: optimizer steps done.
        last: numbers of the last step alone, kept on the device until they are read.
    """

    def __init__(self) -> None:
        self.waited = 0.0
        self.paused = 0.0
        self.images = 0
        self.steps = 0
        self.last: dict[str, Tensor] = {}
        self._sums: dict[str, Tensor | float] = {}
        self._start = time.perf_counter()

    def add(self, **values: Tensor | float) -> None:
        """Add parts of a step's numbers; what is on the device stays there."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def values(self) -> dict[str, float]:
        """Return the means over the steps, and the last step's numbers. The host waits for them."""
        means = {name: float(total) / self.steps for name, total in self._sums.items()}
        return means | {name: float(value) for name, value in self.last.items()}

    def elapsed(self) -> float:
        """Return seconds of training since the meter was made."""
        return time.perf_counter() - self._start - self.paused

    def images_per_second(self) -> float:
        """Return images over seconds of training."""
        return self.images / max(self.elapsed(), 1e-9)

    def data_wait(self) -> float:
        """Return the share of training time that was spent waiting for data, 0 … 1."""
        return self.waited / max(self.elapsed(), 1e-9)

    def seconds_per_step(self) -> float:
        """Return seconds of training per step."""
        return self.elapsed() / max(self.steps, 1)


def duration(seconds: float) -> str:
    """Return seconds as `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def peak_memory_bytes(device: torch.device) -> float:
    """Return the most bytes used so far: on the GPU, or of this process on a CPU."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * unit
