"""The page of `scripts/benchmark_cleaning.py`."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from scripts.benchmarks.common.page import MISSING, optional, page, table

_NOTES = """\
- found: what the command names. Precision: of those, the planted ones. Recall: of the planted ones,
  those named. Claimed: the precision that the command states without knowing what was planted.
- wrong label of any kind: images given to another identity, and images of people who have no label,
  by the two kinds `swapped` and `outlier` together. For "where it belongs" the label that the
  command gives the image must be one of its person.
- A fifth of the split and merged identities, and of those in both sets, are people whom the network
  has not seen; all leaked people are, and none of their images is in the verification sets."""


def markdown(report: Mapping[str, Any]) -> str:
    """Return the report as a page."""
    runs, scale = report["runs"], report["scale"]
    head = ["fault", "planted", "found", "precision", "claimed", "recall"]
    rows = [
        [
            name,
            *(_mean([run["rows"][n][key] for run in runs], "{:.0f}") for key in head[1:3]),
            *(_mean([run["rows"][n][key] for run in runs], "{:.1%}") for key in head[3:]),
        ]
        for n, name in enumerate(row["fault"] for row in runs[0]["rows"])
    ]
    speeds = [
        (run["images"] - run["earlier"]) / run["embedding_seconds"]
        for run in runs
        if run["earlier"] < run["images"]
    ]
    speed = statistics.median(speeds) if speeds else None
    return page(
        "Cleaning a dataset",
        report,
        "## Planted faults",
        f"{runs[0]['images'] - runs[0]['set_images']:,} images in two sets, {len(runs)} seed(s) of "
        "where the faults are; thresholds as the command chooses them.",
        table(head, rows),
        _NOTES,
        "## Time and memory",
        f"Embedding and hashing: {optional(speed, '{:,.0f}')} images per second, decoding "
        "included.",
        *([] if scale is None else _scale(scale)),
    )


def _scale(scale: Mapping[str, Any]) -> list[str]:
    search = scale["search"]
    return [
        f"Examining {scale['images']:,} made-up embeddings of {scale['size']} numbers, "
        f"{scale['identities']:,} identities, a hundredth of the largest public set by default: "
        f"{scale['seconds']:.0f} s, {scale['peak_bytes'] / 2**20:,.0f} MiB beyond what the process "
        "had, mapped files included.",
        table(
            ["stage", "time"], [[n, f"{seconds:.1f} s"] for n, seconds in scale["stages"].items()]
        ),
        f"The nearest of {scale['identities']:,} centres for {search['queries']:,} embeddings: "
        f"{search['blocks']:.2f} s by blocks of products, {search['faiss']:.2f} s by faiss (the "
        "best of three turns each).",
    ]


def _mean(values: Sequence[float | None], form: str) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return MISSING
    text = form.format(statistics.fmean(known))
    return text if len(known) < 2 else f"{text} ± {form.format(statistics.stdev(known))}"
