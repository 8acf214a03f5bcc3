"""Random numbers that are a pure function of (seed, identity, image).

Every image owns one row of uniform numbers from a counter-based generator (Philox, Salmon et
al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) keyed by its address. What a row
means is decided by dealing its columns out in a fixed order, for many rows at once; so neither
the batch an image is rendered in nor the process that does it can change the image.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
"""Arrays here are float32 throughout; NumPy's stubs lose that in mixed arithmetic."""


def generator(seed: int, identity: int, image: int | None = None) -> np.random.Generator:
    """Return the generator of one identity, or of one image of it.

    Args:
        seed: seed of the whole data set, 0 ≤ seed < 2**64.
        identity: number of the identity, 0 ≤ identity < 2**32.
        image: number of the image within the identity, 0 ≤ image < 2**32 - 1; None for what
            belongs to the identity itself.

    Raises:
        ValueError: a number is out of its range.
    """
    for name, value, limit in (("seed", seed, 64), ("identity", identity, 32)):
        if not 0 <= value < 2**limit:
            raise ValueError(f"{name} is {value}; it must be at least 0 and below 2**{limit}")
    slot = 0 if image is None else image + 1
    if not 0 <= slot < 2**32:
        raise ValueError(f"image is {image}; it must be at least 0 and below 2**32 - 1")
    key = np.array((seed, (identity << 32) | slot), np.uint64)  # a list would pass through float64
    return np.random.Generator(np.random.Philox(key=key))


class Deck:
    """Deals the columns of a table of uniform numbers, one row an image (or an identity).

    Args:
        rows: float32 [n, columns], uniform in [0, 1).
    """

    def __init__(self, rows: Floats) -> None:
        self._rows = rows
        self._next = 0

    @classmethod
    def of(cls, generators: Sequence[np.random.Generator], columns: int) -> "Deck":
        """Draw `columns` numbers from each generator into one row each."""
        return cls(np.stack([g.random(columns, dtype=np.float32) for g in generators]))

    def _take(self, columns: int) -> Floats:
        start, self._next = self._next, self._next + columns
        assert self._next <= self._rows.shape[1], "the deck is too small for what it must deal"
        return self._rows[:, start : self._next]

    def uniform(self, low: float, high: float) -> Floats:
        """Deal float32 [n], uniform in [low, high)."""
        dealt: Floats = low + (high - low) * self._take(1)[:, 0]
        return dealt

    def normal(self, mean: float, deviation: float) -> Floats:
        """Deal float32 [n], bell-shaped within mean ± 3 deviations (a sum of three uniforms).

        Bounded on purpose: no identity or image is an outlier that stops looking like a face.
        """
        dealt: Floats = mean + deviation * 2.0 * (self._take(3).sum(axis=1) - 1.5)
        return dealt

    def chance(self, probability: float) -> npt.NDArray[np.bool_]:
        """Deal bool [n], true with the given probability."""
        return self._take(1)[:, 0] < probability

    def colours(self, low: float, high: float) -> Floats:
        """Deal float32 [n, 3], each channel uniform in [low, high)."""
        dealt: Floats = low + (high - low) * self._take(3)
        return dealt
