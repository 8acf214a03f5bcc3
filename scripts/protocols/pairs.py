"""The part `pairs/`: the official lists, and the ten folds of squared distances."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np

from eval.protocol import FOLDS, ten_fold
from eval.protocols.pair_lists import PairList, read_agedb, read_calfw, read_cfp, read_lfw
from scripts.protocols.compare import Json, differences, read_json

LISTS: dict[str, Callable[[Path], PairList]] = {
    "pairs.txt": lambda folder: read_lfw(folder / "pairs.txt"),
    "pairs_CALFW.txt": lambda folder: read_calfw(folder / "pairs_CALFW.txt"),
    "pairs_CPLFW.txt": lambda folder: read_calfw(folder / "pairs_CPLFW.txt"),
    "cfp_ff": lambda folder: read_cfp(folder / "Protocol", "FF"),
    "cfp_fp": lambda folder: read_cfp(folder / "Protocol", "FP"),
    "agedb_30": lambda folder: read_agedb(folder / "04_FINAL_protocol_30_years.mat"),
}


def check(folder: Path) -> list[str]:
    """Return a line for each pair and figure of `expected.json` that differs."""
    lines = []
    for name, expected in read_json(folder / "expected.json").items():
        where = f"{folder.name}/{name}"
        if name == "ten_fold":
            lines += differences(expected, _ten_fold(expected), where)
        elif name in LISTS:
            pairs = LISTS[name](folder)
            lines += differences(expected, _as_listed(pairs, expected), where)
        else:
            lines.append(f"{where}: unknown; known are ten_fold, {', '.join(LISTS)}")
    return lines


def _as_listed(pairs: PairList, expected: Json) -> Json:
    """Return pairs as [image, image, 0 or 1]: in one list, or in one for each fold."""
    found = [[pair.first, pair.second, int(pair.same)] for pair in pairs]
    if pairs.fold_p is None or isinstance(expected[0][0], str):
        return found
    ends = np.flatnonzero(np.diff(pairs.fold_p)) + 1
    starts = [0, *ends.tolist(), len(found)]
    return [found[start:end] for start, end in pairwise(starts)]


def _ten_fold(expected: Json) -> Json:
    given = {"squared_distances": expected["squared_distances"], "same": expected["same"]}
    scores = ten_fold(
        np.array(given["squared_distances"], dtype=np.float64),
        np.array(given["same"], dtype=np.bool_),
    )
    return {
        **given,
        "accuracy": scores.mean,
        "std_population": scores.std,
        "standard_error": scores.std / np.sqrt(FOLDS - 1),
        "fold_accuracy": scores.accuracy,
        "fold_threshold": scores.threshold,
    }
