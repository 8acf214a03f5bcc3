"""Finds the `.rec` files of one dataset."""

import re
from itertools import islice
from pathlib import Path
from typing import Final

from data.records.locations import DatasetError, Location, expand, is_glob

# Prefix, number, optionally the number of shards, and a suffix: train-00003-of-00010.
_NAME: Final = re.compile(r"(.*?)(\d+)(?:-of-(\d+))?(\D*)")

_SHARDS: Final = "train-[0-9]*.rec"  # in a folder, as the tools name them

_SHOWN: Final = 5  # names in a message
RECORDS: Final = (
    "a .rec file, a pattern of .rec files (train-*.rec), or a folder with train.rec or with shards "
    "(train-00000.rec and so on)"
)


def find_records(location: Location) -> list[Path]:
    """Return the `.rec` files of one dataset, sorted by name; see `RECORDS` for `location`.

    Raises `DatasetError` if there are none, if a folder has both or other `.rec` files only, if a
    pattern matches other files too, and if the numbers in the names show that shards are missing.
    """
    if is_glob(location):
        return _matching(location)
    path = Path(location)
    if path.is_dir():
        return _in_folder(path)
    if path.suffix == ".rec" and path.is_file():
        return [path]
    state = "is not a .rec file" if path.exists() else "does not exist"
    raise DatasetError(f"{path} {state}: expected {RECORDS}")


def _matching(pattern: Location) -> list[Path]:
    files = expand(pattern)
    if not files:
        raise DatasetError(
            f"{pattern} matches no file: expected the .rec files of one dataset; fix the pattern, "
            "or copy the files"
        )
    others = [str(file) for file in files if file.suffix != ".rec"]
    if others:
        raise DatasetError(
            f"{pattern} matches files without the suffix .rec: {_few(others, len(others))}; "
            "expected shards of one dataset; end the pattern with .rec, and list other datasets "
            "one by one"
        )
    _check_numbers(pattern, [file.stem for file in files])
    return files


def _in_folder(folder: Path) -> list[Path]:
    single = folder / "train.rec"
    shards = sorted(folder.glob(_SHARDS))
    if not single.is_file() and shards:
        _check_numbers(folder, [file.stem for file in shards])
        return shards
    if single.is_file() and not shards:
        return [single]
    found = [file.name for file in sorted(folder.glob("*.rec"))]
    if not found:
        raise DatasetError(f"{folder} has no .rec file: expected {RECORDS}")
    state = "both train.rec and shards" if shards else "no train.rec"
    raise DatasetError(
        f"{folder} has {state}; name one of its files, or the shards of one dataset as a pattern "
        f"({folder}/{_SHARDS if shards else '*.rec'}): {_few(found, len(found))}"
    )


def _check_numbers(location: Location, stems: list[str]) -> None:
    """Raise `DatasetError` if the numbers in the shards' names show that some are missing."""
    matches = [_NAME.fullmatch(stem) for stem in stems]
    found = [match.groups() for match in matches if match is not None]
    series = {(prefix, total, end) for prefix, _, total, end in found}
    if len(found) < len(stems) or len(series) > 1:
        return  # the files are not numbered, or not as one series
    prefix, number, total, end = found[0]
    numbers = {int(groups[1]) for groups in found}
    if total is None:
        expected = range(min(numbers), max(numbers) + 1)
    else:
        expected = range(1, int(total) + 1) if int(total) in numbers else range(int(total))
    count = len(expected) - sum(number in expected for number in numbers)
    if count:
        width = len(number)
        ends = f"{'' if total is None else f'-of-{total}'}{end}.rec"
        missing = (n for n in expected if n not in numbers)
        names = [f"{prefix}{n:0{width}d}{ends}" for n in islice(missing, _SHOWN)]
        raise DatasetError(
            f"{location} has {len(stems)} shards, and by their numbers {count} are missing: "
            f"{_few(names, count)}; copy them, or list the files to train on in data.train, with "
            "data.merge: by_name"
        )


def _few(names: list[str], count: int) -> str:
    """Return the first of `count` names for a message."""
    return ", ".join(names[:_SHOWN]) + (f" … ({count} in all)" if count > _SHOWN else "")
