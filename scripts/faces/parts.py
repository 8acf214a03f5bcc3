"""Rows computed a part at a time into files, so that an interrupted job goes on.

The ranks of a job share the parts; which rank made a part leaves no trace, so that any number of
ranks can go on, and one reads them all.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from data.files import atomic_write, writing
from recognition.distributed import World

PART: Final = 4096  # rows that an interruption costs at most, on each rank
JOB: Final = "job.json"


class PartsError(ValueError):
    """A folder with the parts of another job."""


def part_file(folder: Path, start: int) -> Path:
    """Return the file of the part that begins with row `start`."""
    return folder / f"{start:012d}.npy"


def part_rows(folder: Path, count: int) -> dict[Path, range]:
    """Return which of `count` rows each part has, by its file."""
    starts = range(0, count, PART)
    return {part_file(folder, at): range(at, min(at + PART, count)) for at in starts}


def part_files(folder: Path, count: int) -> list[Path]:
    """Return the files of all parts of `count` rows."""
    return list(part_rows(folder, count))


def begin_parts(folder: Path, job: dict[str, Any]) -> None:
    """Make the folder of a job, or raise `PartsError` if it is that of another one.

    `job` is all that the rows depend on, as values for JSON.
    """
    file = folder / JOB
    if file.exists():
        if json.loads(file.read_text(encoding="utf-8")) != json.loads(json.dumps(job)):
            raise PartsError(
                f"{folder} was left by another job, with other faces or another network: remove it"
            )
        return
    with writing(file):
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as stream:
            stream.write(json.dumps(job).encode())


def make_parts(
    folder: Path,
    count: int,
    make: Callable[[NDArray[np.int64]], NDArray[Any]],
    advance: Callable[[int], object],
    world: World | None = None,
) -> int:
    """Write those of this rank's parts of `count` rows that are missing.

    `make` gets the numbers of the rows of a part, and `advance` how many rows a part has that is
    there. Returns the number of rows that an earlier try had written.
    """
    world = world or World()
    done = 0
    for start in range(PART * world.rank, count, PART * world.size):
        rows = np.arange(start, min(start + PART, count), dtype=np.int64)
        part = part_file(folder, start)
        if part.exists():
            done += len(rows)
        else:
            with writing(part), atomic_write(part) as file:
                np.save(file, make(rows))
        advance(len(rows))
    return done
