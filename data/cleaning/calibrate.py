"""Where to cut a score, so that of what is found most is true, without knowing what is true.

Faults are planted among the data's own embeddings, which says how they score. Above the median of
the planted ones next to nothing is free of fault, so twice the number of scores there is how many
faults there are; below, what is found beyond them is false.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

MOST_RECALL: Final = 0.99  # beyond which the planted scores' lowest ones decide, which are few


@dataclass(frozen=True)
class Cut:
    """A threshold, and what it does by the planted faults; `found` counts scores from it on."""

    threshold: float
    found: int
    faults: float  # how many there are, as estimated
    recall: float  # of the planted faults
    precision: float  # as estimated; 1 if nothing is found

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers for JSON."""
        return dict(vars(self))


def choose_cut(
    scores: NDArray[np.floating[Any]],  # of all that is judged; NaN where it cannot be
    planted: NDArray[np.floating[Any]],  # of planted faults; -inf where it cannot be found
    precision: float,
    threshold: float | None = None,  # used instead of a chosen one
) -> Cut | None:
    """Return the lowest threshold whose findings have the wanted precision; None without planted.

    Where no threshold has it, the median of the planted scores.
    """
    known = np.sort(planted[~np.isnan(planted)])
    seen = np.sort(scores[~np.isnan(scores)])
    finite = known[np.isfinite(known)]
    if 2 * len(finite) <= len(known):  # most could not be found by any threshold
        return None

    def above(values: NDArray[np.floating[Any]], at: float) -> int:
        return len(values) - int(np.searchsorted(values, at))

    middle = float(known[len(known) // 2])
    faults = above(seen, middle) * len(known) / above(known, middle)

    def cut(at: float) -> Cut:
        found, recall = above(seen, at), above(known, at) / len(known)
        estimate = min(1.0, faults * recall / found) if found else 1.0
        return Cut(at, found, faults, recall, estimate)

    if threshold is not None:
        return cut(threshold)
    lowest = max(float(known[int((1 - MOST_RECALL) * len(known))]), float(finite[0]))
    good = [c for at in np.linspace(lowest, middle, 200) if (c := cut(float(at))).precision
            >= precision]  # fmt: skip
    return good[0] if good else cut(middle)
