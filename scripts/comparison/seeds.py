"""What several seeds tell: mean and spread of a method, and its difference to a baseline."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Summary:
    """A figure of a method over its seeds."""

    mean: float
    deviation: float | None  # standard deviation, with n - 1; None: one seed has none


@dataclass(frozen=True)
class Difference:
    """A method minus the baseline, paired by seed: the mean over the seeds that both have."""

    seeds: list[int]
    mean: float
    standard_error: float  # of the mean


def summarise(values: Sequence[float | None]) -> Summary | None:
    """Return mean and standard deviation over the seeds, or None if a seed has no figure."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    return Summary(statistics.mean(known), statistics.stdev(known) if len(known) > 1 else None)


def difference(method: Mapping[int, float], baseline: Mapping[int, float]) -> Difference | None:
    """Return the difference between two methods' figures by seed; None below two common seeds."""
    seeds = sorted(method.keys() & baseline.keys())
    if len(seeds) < 2:
        return None
    values = [method[seed] - baseline[seed] for seed in seeds]
    error = statistics.stdev(values) / math.sqrt(len(values))
    return Difference(seeds, statistics.mean(values), error)
