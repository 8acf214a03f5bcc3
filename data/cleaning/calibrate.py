"""Where to cut a score, so that of what is found most is true, without knowing what is true.

Of what scores at least T, how many are false? There are two estimates, and the lower one counts.

* Faults planted among the data's own embeddings say how faults score. Above a quantile of theirs
  from 0.25 to 0.5, the lowest one above which the other estimate has hardly any false ones, all are
  taken for faults. That is how many faults there are, and what is found beyond those of them that
  score T is false. This is right where the two overlap.
* The bulk of the scores is free of fault. A Gumbel distribution, that of maxima, through its
  quantiles 0.50 and 0.84 says how many of them score T. This is right where the two are far apart,
  and counts faults that score less than planted ones, such as people whom the data does not have.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

BULK: Final = (0.50, 0.84)  # quantiles that a few per cent of faults hardly move
ANCHORS: Final = (0.25, 0.3, 0.35, 0.4, 0.45, 0.5)
FALSE_AT_ANCHOR: Final = 0.05  # less, and so few faults are above it that chance decides
STEPS: Final = 200  # thresholds that are tried
FEWEST: Final = 20  # scores that have a bulk
MOST_RECALL: Final = 0.99  # beyond which the planted scores' lowest ones decide, which are few


@dataclass(frozen=True)
class Cut:
    """A threshold, and what it does by the planted faults; `found` counts scores from it on.

    What rests on planted faults is None where none could be planted.
    """

    threshold: float
    found: int
    faults: float | None  # how many there are, as estimated
    recall: float | None  # of the planted faults
    precision: float | None  # as estimated; 1 if nothing is found

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers for JSON."""
        return dict(vars(self))


def choose_cut(
    scores: NDArray[np.floating[Any]],  # of all that is judged; NaN where it cannot be
    planted: NDArray[np.floating[Any]],  # of planted faults; -inf where it cannot be found
    precision: float,
    threshold: float | None = None,  # used instead of a chosen one
) -> Cut | None:
    """Return the lowest threshold whose findings have the wanted precision.

    Where no threshold has it, the median of the planted scores; None where there is too little to
    plant, and none is stated.
    """
    known = np.sort(planted[~np.isnan(planted)])
    seen = np.sort(scores[~np.isnan(scores)])
    finite = known[np.isfinite(known)]

    def above(values: NDArray[np.floating[Any]], at: float) -> int:
        return len(values) - int(np.searchsorted(values, at))

    if 2 * len(finite) <= len(known):  # most could not be found by any threshold
        if threshold is None:
            return None
        return Cut(threshold, above(seen, threshold), None, None, None)

    middle = float(known[len(known) // 2])
    bulk = _bulk(seen[np.isfinite(seen)])
    # The lower the anchor, the more faults are counted there, and the less chance decides.
    for quantile in ANCHORS:
        anchor = float(known[int(quantile * len(known))])
        if bulk(anchor) <= FALSE_AT_ANCHOR * above(seen, anchor):
            break
    faults = above(seen, anchor) * len(known) / above(known, anchor)

    def cut(at: float) -> Cut:
        found, recall = above(seen, at), above(known, at) / len(known)
        false = min(max(0.0, found - faults * recall), bulk(at))
        return Cut(at, found, faults, recall, 1 - false / found if found else 1.0)

    if threshold is not None:
        return cut(threshold)
    # Strangers score less than planted faults; nothing that most images have is a fault.
    usual = float(np.quantile(seen[np.isfinite(seen)], 0.95)) if np.isfinite(seen).any() else middle
    lowest = min(max(float(known[int((1 - MOST_RECALL) * len(known))]), float(finite[0])), middle)
    lowest = min(lowest, max(usual, 0.0))
    for at in np.linspace(lowest, middle, STEPS).tolist():
        chosen = cut(at)
        if chosen.precision is not None and chosen.precision >= precision:
            return chosen
    return cut(middle)


def _bulk(scores: NDArray[np.floating[Any]]) -> Callable[[float], float]:
    """Return how many of n scores are at least T if all are like most, as a function of T."""
    if len(scores) < FEWEST:
        return lambda at: float(len(scores))
    low, high = (-math.log(-math.log(q)) for q in BULK)
    middle, upper = np.quantile(scores, BULK)
    scale = max(float(upper - middle) / (high - low), 1e-6)
    mode = float(middle) - scale * low

    def expected(at: float) -> float:
        return -len(scores) * math.expm1(-math.exp(min(-(at - mode) / scale, 50.0)))

    return expected
