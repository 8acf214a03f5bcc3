"""The part `scored_pairs/`: rates, groups, quality and intervals of a CSV of scored pairs."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np

from eval.protocols.bootstrap import Bootstrap, pair_subjects, percentile_interval
from eval.protocols.fairness import fairness
from eval.protocols.quality import error_discard
from eval.protocols.rates import ScoredPairs
from scripts.protocols.compare import Json, differences, plain, read_json
from scripts.protocols.face_cases import with_weight

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


def rates_as(expected: Json, pairs: ScoredPairs) -> dict[str, object]:
    """Return the figures of scored pairs, each reading at the rates that are expected of it."""
    fars, published = (
        [point["far"] for point in expected.get(name, [])]
        for name in ("tar_at_far", "published_tpr_at_fpr")
    )
    found = pairs.rates(fars)
    return {**vars(found), "published_tpr_at_fpr": pairs.published_tpr_at_fpr(published)}


def _rates(folder: Path, columns: Columns, expected: Json) -> Json:
    return rates_as(expected, scored(columns))


def _published_points(folder: Path, columns: Columns, expected: Json) -> Json:
    return len(scored(columns).published_points()[0])


def _fairness(folder: Path, columns: Columns, expected: Json) -> Json:
    found = []
    for one in expected:
        # The weight is part of the names: `garbe_alpha_0.5`.
        names = one.get("summary") or ()
        alpha = next((float(n.rpartition("_")[2]) for n in names if "_alpha_" in n), 0.5)
        result = fairness(
            columns["score"].astype(np.float64),
            columns["same"] == "1",
            columns["group_a"].tolist(),
            columns["group_b"].tolist(),
            one["far"],
            alpha=alpha,
        )
        found.append(with_weight(result, alpha))
    return found


def _error_discard(folder: Path, columns: Columns, expected: Json) -> Json:
    far, same_p = expected["far_of_threshold"], columns["same"] == "1"
    threshold = scored(columns).tar_at_far(far).threshold
    assert threshold is not None, f"no threshold at FAR {far}"
    qualities_p2 = np.column_stack([columns["quality_a"], columns["quality_b"]]).astype(np.float64)
    curve = error_discard(
        columns["score"].astype(np.float64)[same_p],
        qualities_p2[same_p],
        threshold,
        discards=[float(fraction) for fraction in expected["error_at_discard"]],
        areas=[float(fraction) for fraction in expected["partial_area"]],
    )
    return {"far_of_threshold": far, **plain(curve)}


def _bootstrap(folder: Path, columns: Columns, expected: Json) -> Json:
    scores_p, same_p = columns["score"].astype(np.float64), columns["same"] == "1"
    draws = np.load(folder / "multiplicities.npz")
    # Column k of the draws is subject k + 1.
    subjects = pair_subjects(
        np.arange(draws["subjects"].shape[1]) + 1,
        *(columns[name].astype(np.int64) for name in ("subject_a", "subject_b")),
    )
    bootstraps = {
        "by_subject": (Bootstrap(scores_p, same_p, subjects), draws["subjects"]),
        "by_pair": (Bootstrap(scores_p, same_p), draws["pairs"]),
    }
    found: Json = {far: {} for far in expected}
    for name, (bootstrap, draw_rs) in bootstraps.items():
        tars = bootstrap.tar_at_far(draw_rs, [float(far) for far in expected])
        for far, values in zip(expected, tars, strict=True):
            found[far][name] = values
            found[far][f"{name}_interval95"] = percentile_interval(values)
    return found


FIGURES: dict[str, Callable[[Path, Columns, Json], Json]] = {
    "rates": _rates,
    "fairness": _fairness,
    "edc": _error_discard,
    "published_points_kept": _published_points,
    "bootstrap_tar_at_far": _bootstrap,
}
