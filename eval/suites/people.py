"""Who the people on the images of a set are, from a list, or from the names of the images.

Shape legend: n images.
"""

import csv
import math
import posixpath
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from eval.protocols.ijb_files import shorten
from eval.protocols.rates import Floats

COLUMNS: Final = ("image", "subject", "group", "quality")

# How the official lists name a person within the path of an image.
SUBJECT_OF: Final[Mapping[str, Callable[[str], str]]] = {
    "lfw": posixpath.dirname,
    "folder": posixpath.dirname,
    "calfw": lambda path: path.rpartition("_")[0],
    "cplfw": lambda path: path.rpartition("_")[0],
    "cfp_ff": lambda path: path.split("/")[-3],
    "cfp_fp": lambda path: path.split("/")[-3],
    "agedb": lambda path: "_".join(path.split("_")[1:-2]),  # `0_MariaCallas_35_f.jpg`
}


@dataclass(frozen=True, eq=False)
class People:
    """What is known of the person on each image."""

    subject_n: NDArray[np.int64]  # from 0
    count: int  # of subjects
    group_n: Sequence[str] | None = None
    quality_n: Floats | None = None  # higher is better


def people_of_names(paths: Sequence[str], form: str) -> People | None:
    """Return the people by the paths of an official list; None where paths do not name them."""
    if form not in SUBJECT_OF:
        return None
    names = [SUBJECT_OF[form](path) for path in paths]
    _, subject_n = np.unique(names, return_inverse=True)
    return People(subject_n.astype(np.int64), int(subject_n.max()) + 1)


def read_people(path: Path, images: Sequence[str]) -> People:
    """Return the people in a CSV file of `image,subject`, `group` and `quality` if it has them.

    `images` are the names of all images, each of which needs a line; lines of others are ignored.
    Raises `ValueError` for another header, images without a line or with two, an empty subject or
    group, and a quality that is no number.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header, *rows = list(csv.reader(file)) or [[]]
    except (OSError, UnicodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read: {error}; expected a CSV file") from error
    if header[:2] != list(COLUMNS[:2]) or not set(header) <= set(COLUMNS):
        raise ValueError(
            f"{path}: columns {', '.join(header) or 'none'}; expected image, subject and, where "
            "they are known, group and quality"
        )
    if wrong := [line for line, row in enumerate(rows, 2) if row and len(row) != len(header)]:
        raise ValueError(
            f"{path}, line {wrong[0]}: other fields than the header has: expected {len(header)}"
        )
    row_of = {row[0]: row for row in rows if row}
    if (repeated := sum(map(bool, rows)) - len(row_of)) or (missing := set(images) - set(row_of)):
        found = f"{repeated} images have two lines" if repeated else (
            f"{len(missing)} of {len(images)} images have no line: {shorten(sorted(missing))}"
        )  # fmt: skip
        raise ValueError(f"{path}: {found}; expected one for each")
    columns = dict(zip(header, zip(*(row_of[image] for image in images), strict=True), strict=True))
    for name in ("subject", "group"):
        if empty := sum(not value for value in columns.get(name, ())):
            raise ValueError(f"{path}: {empty} images have no {name}: expected one for each")
    _, subject_n = np.unique(columns["subject"], return_inverse=True)
    return People(
        subject_n.astype(np.int64),
        int(subject_n.max()) + 1,
        columns.get("group"),
        _numbers(path, columns["quality"]) if "quality" in columns else None,
    )


def _numbers(path: Path, texts: Sequence[str]) -> Floats:
    try:
        values = [float(text) for text in texts]
    except ValueError as error:
        raise ValueError(f"{path}: quality: {error}; expected numbers") from None
    if bad := sum(not math.isfinite(value) for value in values):
        raise ValueError(f"{path}: {bad} qualities are not finite: expected numbers")
    return np.array(values, dtype=np.float64)
