"""Times and figures between two log lines."""

import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Meter:
    """Times and figures between two log lines."""

    def __init__(self) -> None:
        self.waited = 0.0  # seconds, for data
        self.paused = 0.0  # seconds of verification and saving, which do not count as training
        self.images = 0  # over all ranks
        self.steps = 0
        self.last: dict[str, Tensor] = {}  # figures of the last step only, on the device
        self.active_classes = 0  # of this rank, in the last forward pass
        self.samples: dict[str, Tensor] = {}  # of each sample of the last step, on the device
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

    def read_samples(self) -> dict[str, NDArray[np.float32]]:
        """Return the numbers of the samples. Waits for the device, once."""
        if not self.samples:
            return {}
        whole = torch.cat(list(self.samples.values())).cpu().numpy()
        ends = np.cumsum([len(value) for value in self.samples.values()])[:-1]
        return dict(zip(self.samples, np.split(whole, ends), strict=True))

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


def progress_line(step: int, total: int, values: Mapping[str, Any], left: float) -> str:
    """Return the main figures of an interval as one line; `left` are the seconds to the end."""
    return (
        f"step {step}/{total} | epoch {values['epoch']:.2f} | loss {values['loss']:.4f} | "
        f"lr {values['lr']:.3g} | cos {values['cosine_positive']:.3f} | "
        f"{values['images_per_second']:.0f} images/s | data wait {values['data_wait']:.0%} | "
        f"{duration(left)} left"
    )
