"""The files of one dataset that a pattern names, and whether any is missing."""

import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from data.locations import DatasetError, Location, expand

# Name, number, perhaps their total, and what may follow: train-00003-of-00010.
_NAME = re.compile(r"(.*?)(\d+)(?:-of-(\d+))?(\D*)")

SHOWN = 5  # names in a message


def find_shards(pattern: Location) -> Sequence[Location]:
    """Return the `.rec` files that match `pattern`, in the order of their names.

    Raises `DatasetError` if there are none, if other files match too, and if the numbers in the
    names show that some are missing.
    """
    locations = expand(pattern)
    if not locations:
        raise DatasetError(
            f"{pattern} matches no file: expected the .rec files of one dataset; mend the pattern, "
            "or copy the files"
        )
    others = [str(file) for file in locations if Path(file).suffix != ".rec"]
    if others:
        raise DatasetError(
            f"{pattern} matches files that are no .rec: {few(others, len(others))}; expected "
            "shards of one dataset; end the pattern with .rec, and list other datasets one by one"
        )
    _check_numbers(pattern, [Path(file).stem for file in locations])
    return locations


def _check_numbers(pattern: Location, stems: list[str]) -> None:
    """Raise `DatasetError` if the numbers in the shards' names show that some are missing."""
    matches = [_NAME.fullmatch(stem) for stem in stems]
    found = [match.groups() for match in matches if match is not None]
    series = {(prefix, total, end) for prefix, _, total, end in found}
    if len(found) < len(stems) or len(series) > 1:
        return  # not one series of numbers
    prefix, number, total, end = found[0]
    numbers = {int(groups[1]) for groups in found}
    if total is None:
        promised = range(min(numbers), max(numbers) + 1)
    else:
        promised = range(1, int(total) + 1) if int(total) in numbers else range(int(total))
    count = len(promised) - sum(number in promised for number in numbers)
    if count:
        width = len(number)
        ends = f"{'' if total is None else f'-of-{total}'}{end}.rec"
        missing = (n for n in promised if n not in numbers)
        names = [f"{prefix}{n:0{width}d}{ends}" for n in islice(missing, SHOWN)]
        raise DatasetError(
            f"{pattern} matches {len(stems)} shards, and by their numbers {count} are missing: "
            f"{few(names, count)}; copy them, or list those that you mean in data.train with "
            "data.merge: by_name"
        )


def few(names: list[str], count: int) -> str:
    """Return the first of `count` names for a message."""
    return ", ".join(names[:SHOWN]) + (f" … ({count} in all)" if count > SHOWN else "")
