"""Puts what was measured into a page."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from scripts.benchmarks.common.page import MISSING, Column, page, table_of
from scripts.benchmarks.common.turns import median_ratio
from scripts.benchmarks.evaluation.ways import BARE, COMMAND, TRAINING, Network, Seconds

TARGET = 1.1

NOTES = f"""\
- {BARE}: the same network on the same batches, decoded and in memory (pinned for a GPU), and on
  their mirror images; the embeddings come back to the CPU. No set, no file, no protocol.
- {TRAINING}: a verification while a network trains: decoding, embedding and all of its figures.
- {COMMAND}: `scripts/benchmark_verification.py` without its cache: reading and hashing the set,
  decoding, embedding, every figure with {{replicates:,}} bootstrap replicates. Not in it: the start
  of Python, and loading the network.
- seconds: median of the rounds. opening, embedding, figures: its parts.
- ratio: median over the rounds of a way's time over the bare loop's in the same round, then the
  least and the greatest; it should be at most {TARGET}. Who is first changes from round to round.
- CPU ratio: the same of the CPU time of all threads of the process, which hardly depends on other
  work on the machine; where the network runs on the CPU, the ratio on an idle machine is near it.
- load: runnable processes (the average of a minute) before and after, the benchmark's own
  included."""


def _seconds(part: str) -> Column:
    def cell(row: Mapping[str, Any]) -> str:
        values = [one[part] for one in row["rounds"] if part in one]
        return f"{statistics.median(values):.2f} s" if values else MISSING

    return ("seconds" if part == "all" else part, cell)


COLUMNS: list[Column] = [
    ("network", lambda row: row["backbone"]),
    ("precision", lambda row: row["precision"]),
    ("way", lambda row: row["way"]),
    *(_seconds(part) for part in ("all", "opening", "embedding", "figures")),
    ("images/s", lambda row: f"{row['images_per_second']:,.0f}"),
    ("ratio", lambda row: f"{row['ratio']:.3f}"),
    ("least", lambda row: f"{min(row['ratios']):.3f}"),
    ("greatest", lambda row: f"{max(row['ratios']):.3f}"),
    ("CPU ratio", lambda row: f"{row['cpu_ratio']:.3f}"),
]


def record(
    networks: Sequence[Network],
    rounds: Sequence[Sequence[Mapping[str, Seconds]]],
    images: int,
) -> list[dict[str, Any]]:
    """Return the figures of each way of each network, from the seconds of each round."""
    rows = []
    for network, taken in zip(networks, rounds, strict=True):
        bare, bare_cpu = ([one[BARE][part] for one in taken] for part in ("all", "cpu"))
        for way in network.ways:
            seconds = [one[way]["all"] for one in taken]
            rows.append(
                {
                    "backbone": network.backbone,
                    "precision": network.precision.name,
                    "way": way,
                    "rounds": [dict(one[way]) for one in taken],
                    "images_per_second": images / statistics.median(seconds),
                    "ratio": median_ratio(seconds, bare),
                    "cpu_ratio": median_ratio([one[way]["cpu"] for one in taken], bare_cpu),
                    "ratios": [a / b for a, b in zip(seconds, bare, strict=True)],
                }
            )
    return rows


def markdown(report: Mapping[str, Any]) -> str:
    """Return the report as a page."""
    return page(
        "The cost of evaluating",
        report,
        table_of(COLUMNS, report["rows"]),
        NOTES.format(replicates=report["replicates"]),
        setting=[f"load {report['load'][0]:.1f} before, {report['load'][1]:.1f} after"],
    )
