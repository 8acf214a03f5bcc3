"""The report: every figure as JSON, and a Markdown table with the ratios that are aimed at."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from scripts.benchmarks.common.page import Column, bullets, optional, page, table_of
from scripts.benchmarks.common.turns import median_ratio
from scripts.benchmarks.loader.ways import BARE, INCUMBENT, OURS, RateSample, Way

READERS = {
    "mxnet": "MXIndexedRecordIO, mxnet.image.imdecode",
    "python": "a reader of a few lines of Python, Pillow (without MXNet)",
}

NOTES = """\
- images/s: median of the rounds, between batches that arrive; next to it the slowest and fastest.
- of bare, of incumbent: median over the rounds of the ratio to the bare decode, and to the
  incumbent in one process, in the same round.
- CPU per image: CPU time of all threads of the process, which hardly depends on other work on the
  machine.
- bare decode: libjpeg-turbo over the same JPEGs in memory, into one buffer: the limit of a core.
- ours: from the record to a uint8 batch in the training loop, which is augmented and normalised on
  the device; workers are threads of one process.
- ours, DALI, where it is installed: the same with data.decoder: dali, on a GPU if there is one.
- incumbent: a torch DataLoader with torchvision's flip, ToTensor and Normalize on each image;
  workers are processes, 0 is the main process alone. It reads and decodes by
  {reader}."""

# What is compared: (way, workers) over (way, workers), and the ratio to reach.
TARGETS = {
    "one thread over the bare decode": ((OURS, 1), (BARE, 1), 0.85),
    "two threads over one": ((OURS, 2), (OURS, 1), 1.6),
    "one thread over the incumbent in one process": ((OURS, 1), (INCUMBENT, 0), 7.0),
}

COLUMNS: list[Column] = [
    ("way", lambda row: row["way"]),
    ("workers", lambda row: str(row["workers"])),
    ("images/s", lambda row: f"{row['images_per_second']:,.0f}"),
    ("slowest", lambda row: f"{min(row['rounds']):,.0f}"),
    ("fastest", lambda row: f"{max(row['rounds']):,.0f}"),
    ("of bare", lambda row: f"{row['of_bare']:.2f}"),
    ("of incumbent", lambda row: f"{row['of_incumbent']:.1f}x"),
    ("CPU per image", lambda row: optional(row["cpu_seconds_per_image"], "{:.0f} µs", 1e6)),
]


def record(ways: Sequence[Way], samples: Sequence[Sequence[RateSample]]) -> dict[str, Any]:
    """Return rows and ratios, from the samples of each way in the same rounds."""
    rates = {
        (way.name, way.workers): [sample.rate for sample in taken]
        for way, taken in zip(ways, samples, strict=True)
    }
    rows = []
    for way, taken in zip(ways, samples, strict=True):
        rounds = rates[way.name, way.workers]
        cpu = [sample.cpu_seconds / sample.images for sample in taken]
        rows.append(
            {
                "way": way.name,
                "workers": way.workers,
                "images_per_second": statistics.median(rounds),
                "rounds": rounds,
                "of_bare": median_ratio(rounds, rates[BARE, 1]),
                "of_incumbent": median_ratio(rounds, rates[INCUMBENT, 0]),
                "cpu_seconds_per_image": statistics.median(cpu) if way.one_process else None,
            }
        )
    targets = [
        {"what": what, "ratio": median_ratio(rates[one], rates[other]), "target": target}
        for what, (one, other, target) in TARGETS.items()
    ]
    return {"rows": rows, "targets": targets}


def markdown(report: Mapping[str, Any]) -> str:
    """Return the report as a page: machine, table, ratios, and what the columns mean."""
    targets = [
        f"{target['what']}: {target['ratio']:.2f}, to reach {target['target']:.2f}"
        for target in report["targets"]
    ]
    return page(
        "The loader's speed",
        report,
        table_of(COLUMNS, report["rows"]),
        bullets(targets),
        NOTES.format(reader=READERS[report["incumbent"]]),
        *([] if report["index"] is None else _index(report["index"])),
    )


def _index(found: Mapping[str, float]) -> list[str]:
    """Return what it costs to open a large index."""
    items = [
        f"the first time, from the text index: {found['first_open_s']:.1f} s, at most "
        f"{found['first_open_peak_mib']:,.0f} MiB",
        f"from then on: {found['open_s']:.2f} s; {max(0.0, found['rank_mib']):.1f} MiB of a "
        f"rank's own memory, {found['mapped_mib']:,.0f} MiB mapped and shared, "
        f"{found['worker_mib']:.1f} MiB of a worker process's own",
    ]
    heading = f"Opening {found['entries']:,.0f} images of {found['identities']:,.0f} identities:"
    return [heading, bullets(items)]
