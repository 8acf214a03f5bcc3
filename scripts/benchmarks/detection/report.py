"""The page of `scripts/benchmark_detection.py`."""

import statistics
from collections.abc import Mapping
from typing import Any

import numpy as np

from scripts.benchmarks.common.page import Column, optional, page, table

_NOTES = """\
- found: faces with a detection; a landmark's error is its distance from where it is, over the
  distance of the eyes, as the mean of five, of faces that hide none. Profiles hide some.
- main: the person whom a photo is of. Others: those behind, whose landmarks are all visible."""

_ODD: list[Column] = [
    ("photo", lambda row: row["photo"]),
    ("becomes", lambda row: row["reason"]),
    ("landmarks moved", lambda row: optional(row["moved"], "{:.3f}")),
    ("time", lambda row: f"{row['seconds']:.2f} s"),
    ("peak memory", lambda row: f"{row['bytes'] / 2**20:,.0f} MiB"),
]


def markdown(report: Mapping[str, Any]) -> str:
    """Return the report as a page."""
    accuracy, speed = report["accuracy"], report["speed"]
    rows = []
    for name, group in accuracy["groups"].items():
        errors = group["errors"]
        share = group["found"] / group["faces"] if group["faces"] else None
        middle, worst = (float(np.quantile(errors, q)) if errors else None for q in (0.5, 0.95))
        rows.append(
            [
                name if name == "others" else f"main, {name}",
                str(group["faces"]),
                optional(share, "{:.1%}"),
                optional(middle, "{:.3f}"),
                optional(worst, "{:.3f}"),
            ]
        )
    head = ["faces", "number", "found", "error, median", "95%"]
    seconds = statistics.median(speed["seconds"])
    cpu = statistics.median(speed["cpu_seconds"]) / accuracy["photos"]
    sentences = [
        f"Detections that are no face: {accuracy['false']} in {accuracy['photos']} photos.",
        f"With `--faces largest`, {speed['right']} of {speed['written']} faces are the main "
        "person's.",
        f"{accuracy['photos'] / seconds:.1f} photos a second with {report['processes']} "
        f"processes, from files to faces (median of {len(speed['seconds'])} rounds, "
        f"{min(speed['seconds']):.1f} to {max(speed['seconds']):.1f} s; starting included). "
        f"A photo takes {cpu:.3f} s of a core: what idle cores would give is the inverse of that.",
    ]
    return page(
        "Finding faces in photos",
        report,
        "## Scenes of the demo's people",
        table(head, rows),
        _NOTES,
        " ".join(sentences),
        "## Odd photos",
        "The same photo in many forms; how far the landmarks are from those of the plain one, over "
        "the distance of the eyes; the memory of a process beyond what it had.",
        table(
            [name for name, _ in _ODD],
            [[cell(row) for _, cell in _ODD] for row in report["odd"]],
            texts=(0, 1),
        ),
    )
