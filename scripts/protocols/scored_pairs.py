"""The part `scored_pairs/`: rates and bootstrap intervals of a CSV of scored pairs."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np

from eval.protocols.rates import ScoredPairs
from scripts.protocols.compare import Json, differences, read_json

Columns = dict[str, np.ndarray]


def check(folder: Path) -> list[str]:
    """Return a line for each figure of `expected.json` that differs."""
    expected = read_json(folder / "expected.json")
    columns = read_columns(folder / "pairs.csv")
    lines = []
    for name, value in expected.items():
        where = f"{folder.name}/{name}"
        if name not in FIGURES:
            lines.append(f"{where}: no function computes it; known are {', '.join(FIGURES)}")
        else:
            lines += differences(value, FIGURES[name](folder, columns, value), where)
    return lines


def read_columns(path: Path) -> Columns:
    """Return the columns of `pairs.csv` as arrays of strings, by name."""
    with path.open(encoding="utf-8", newline="") as file:
        names, *rows = list(csv.reader(file))
    return dict(zip(names, np.array(rows).T, strict=True))


def scored(columns: Columns) -> ScoredPairs:
    """Return the scores of the genuine and the impostor pairs."""
    scores_p, same_p = columns["score"].astype(np.float64), columns["same"] == "1"
    return ScoredPairs(scores_p[same_p], scores_p[~same_p])


def _rates(folder: Path, columns: Columns, expected: Json) -> Json:
    return scored(columns).rates([point["far"] for point in expected["tar_at_far"]])


def _published_points(folder: Path, columns: Columns, expected: Json) -> Json:
    return len(scored(columns).published_points()[0])


FIGURES: dict[str, Callable[[Path, Columns, Json], Json]] = {
    "rates": _rates,
    "published_points_kept": _published_points,
}
