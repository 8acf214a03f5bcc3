"""Measuring several things in turn, so that whatever slows the machine for a while slows all."""

import statistics
from collections.abc import Callable, Sequence
from typing import TypeVar

from data.progress import progress_bar

Item = TypeVar("Item")
Result = TypeVar("Result")


def take_turns(
    items: Sequence[Item], measure: Callable[[Item, int], Result], rounds: int
) -> list[list[Result]]:
    """Return `measure(item, round)` of every round, per item; each round measures each item once.

    Raises `ValueError` for fewer than one round.
    """
    if rounds < 1:
        raise ValueError(f"rounds: {rounds} found, expected at least 1")
    results: list[list[Result]] = [[] for _ in items]
    with progress_bar("measuring", "turn") as progress:
        for turn in range(rounds * len(items)):
            number, index = divmod(turn, len(items))
            results[index].append(measure(items[index], number))
            progress(turn + 1, rounds * len(items))
    return results


def median_ratio(ours: Sequence[float], others: Sequence[float]) -> float:
    """Return the median over the rounds of one measurement over another of the same round."""
    return statistics.median(one / other for one, other in zip(ours, others, strict=True))
