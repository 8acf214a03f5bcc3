"""The edge cases of rates and of IJB."""

from collections.abc import Callable
from typing import Final

import numpy as np

from eval.protocols.rates import FARS, ScoredPairs, tar_at_far
from scripts.protocols.compare import Json


def numbers(given: Json) -> np.ndarray:
    """Return a list, or a list of lists, as float64: null is NaN, "inf" infinity."""
    return np.array(given, dtype=np.float64)


def rates(given: Json, value: Json) -> object:
    """Return every figure of two lists of scores at a list of rates."""
    pairs = ScoredPairs(numbers(given["genuine"]), numbers(given["impostor"]))
    return pairs.rates(given.get("far", FARS))


def rates_one(given: Json, value: Json) -> object:
    """Return TAR at a single rate."""
    return tar_at_far(numbers(given["genuine"]), numbers(given["impostor"]), given["far"])


FILES: Final[dict[str, Callable[[str, str], object]]] = {}
