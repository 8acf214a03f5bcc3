"""Times and figures between two log lines."""

import time
from collections.abc import Mapping
from types import MappingProxyType

from torch import Tensor


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


def duration(seconds: float) -> str:
    """Return seconds as `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
