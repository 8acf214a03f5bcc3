"""Random numbers that are a pure function of (seed, identity, image), and classes made of them.

Every image has a row of uniform numbers from a counter-based generator (Philox, Salmon et al.,
"Parallel random numbers: as easy as 1, 2, 3", SC 2011), keyed by its address. A deck deals the
columns out in a fixed order, for many rows at once. So neither the batch an image is rendered in
nor the process that renders it can change the image.

A dataclass states how each field is dealt, as in `width: Annotated[Floats, uniform(0.1, 0.2)]`;
any function of a deck may take the place of `uniform`. `deal` makes an object of the class and
deals in the order of its fields.
"""

from collections.abc import Callable, Sequence
from inspect import get_annotations
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
"""Arrays here are float32 throughout; NumPy's stubs lose that in mixed arithmetic."""

Part = TypeVar("Part")


def generator(seed: int, identity: int, image: int | None = None) -> np.random.Generator:
    """Return the generator of an identity, or of one of its images.

    Raises `ValueError` unless 0 ≤ seed < 2**64, 0 ≤ identity < 2**32 and 0 ≤ image < 2**32 - 1.
    """
    for name, value, limit in (("seed", seed, 64), ("identity", identity, 32)):
        if not 0 <= value < 2**limit:
            raise ValueError(f"{name} is {value}: expected at least 0 and below 2**{limit}")
    slot = 0 if image is None else image + 1
    if not 0 <= slot < 2**32:
        raise ValueError(f"image is {image}: expected at least 0 and below 2**32 - 1")
    key = np.array((seed, (identity << 32) | slot), np.uint64)  # a list would pass through float64
    return np.random.Generator(np.random.Philox(key=key))


class Deck:
    """Deals the columns of a table of uniform numbers, one row per image (or identity)."""

    def __init__(self, rows: Floats) -> None:
        self._rows = rows  # float32 [n, columns], uniform in [0, 1)
        self._next = 0

    @classmethod
    def of(cls, generators: Sequence[np.random.Generator], columns: int) -> "Deck":
        """Draw `columns` numbers from each generator into one row each."""
        return cls(np.stack([g.random(columns, dtype=np.float32) for g in generators]))

    def _take(self, columns: int) -> Floats:
        start, self._next = self._next, self._next + columns
        assert self._next <= self._rows.shape[1], "the deck has too few columns"
        return self._rows[:, start : self._next]

    def uniform(self, low: float, high: float) -> Floats:
        """Deal float32 [n], uniform in [low, high)."""
        dealt: Floats = low + (high - low) * self._take(1)[:, 0]
        return dealt

    def normal(self, mean: float, deviation: float) -> Floats:
        """Deal float32 [n], bell-shaped within mean ± 3 deviations (a sum of three uniforms).

        Bounded on purpose: no identity or image is an outlier that no longer looks like a face.
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


class ScalarDeck:
    """Deals the columns of one row as Python numbers, none below `least`."""

    def __init__(self, generator: np.random.Generator, columns: int) -> None:
        self._deck = Deck.of([generator], columns)

    def uniform(self, low: float, high: float, least: float = -np.inf) -> float:
        """Deal a number as `Deck.uniform`."""
        return max(float(self._deck.uniform(low, high)[0]), least)

    def normal(self, mean: float, deviation: float, least: float = -np.inf) -> float:
        """Deal a number as `Deck.normal`."""
        return max(float(self._deck.normal(mean, deviation)[0]), least)

    def chance(self, probability: float) -> bool:
        """Deal true with the given probability."""
        return bool(self._deck.chance(probability)[0])


def _dealt_by(method: str) -> Callable[..., Callable[[Any], Any]]:
    """Return what makes the annotation of a field that this method of the deck deals."""
    return lambda *arguments: lambda deck: getattr(deck, method)(*arguments)


uniform, normal, chance, colours = map(_dealt_by, ("uniform", "normal", "chance", "colours"))


def deal(deck: Deck | ScalarDeck, kind: type[Part], **values: Any) -> Part:
    """Return a `kind`, a dataclass: the fields not in `values` are dealt, in their order."""
    for name, hint in get_annotations(kind).items():
        if name not in values:
            (how,) = hint.__metadata__
            values[name] = how(deck)
    return kind(**values)
