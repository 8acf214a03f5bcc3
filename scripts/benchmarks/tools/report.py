"""Measures cases in turn, and makes the page of what was found."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from scripts.benchmarks.common.table import machine_lines, table
from scripts.benchmarks.tools.cases import Case

TARGET = 1.3

NOTES = f"""\
- bare, tool: median of the rounds; the tool's slowest and fastest beside it. Calls within Python:
  to start a command takes {{start:.2f}} s more.
- ratio: median over the rounds of the tool's time over the bare loop's in the same round; to be at
  most {TARGET}. They take turns in being first.
- check_records --no-decode: beside reading the file 4 MiB at a time. From the disk: the system's
  cache of the file is emptied before each. In the cache, the file is there: no disk is as fast, and
  nothing is to be reached.
- check_records: beside a loop that only decodes the same records, in as many processes.
- pack_records: beside listing the folder, and reading each file and appending it to one, which is
  on the disk at the end.
- pack_records --encode jpeg: beside a loop that only lists, reads, decodes and encodes, in as many
  processes, and writes nothing."""


def measure(
    cases: Sequence[Case], rounds: int, done: Callable[[], object]
) -> list[list[tuple[float, float]]]:
    """Return seconds of (bare, tool) of each case in each round.

    Raises `ValueError` for fewer than one round.
    """
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}: expected at least 1")
    seconds: list[list[tuple[float, float]]] = [[] for _ in cases]
    for number in range(rounds):
        for case, taken in zip(cases, seconds, strict=True):
            if number % 2:
                tool, bare = _timed(case, case.tool), _timed(case, case.bare)
            else:
                bare, tool = _timed(case, case.bare), _timed(case, case.tool)
            taken.append((bare, tool))
            done()
    return seconds


def _timed(case: Case, way: Callable[[], object]) -> float:
    case.before()
    begun = time.perf_counter()
    way()
    return time.perf_counter() - begun


def rows_of(
    cases: Sequence[Case], seconds: Sequence[Sequence[tuple[float, float]]]
) -> list[dict[str, Any]]:
    """Return what the table says of each case."""
    return [
        {
            "case": case.name,
            "amount": case.amount,
            "unit": case.unit,
            "bare": [bare for bare, _ in taken],
            "tool": [tool for _, tool in taken],
            "ratio": statistics.median(tool / bare for bare, tool in taken),
        }
        for case, taken in zip(cases, seconds, strict=True)
    ]


def markdown(report: Mapping[str, Any]) -> str:
    """Return the report as a page."""
    head = ["case", "of", "bare", "tool", "fastest", "slowest", "rate", "ratio"]
    cells = [
        [
            row["case"],
            f"{row['amount']:,.0f} {row['unit']}",
            f"{statistics.median(row['bare']):.3f} s",
            f"{statistics.median(row['tool']):.3f} s",
            f"{min(row['tool']):.3f} s",
            f"{max(row['tool']):.3f} s",
            f"{row['amount'] / statistics.median(row['tool']):,.0f} {row['unit']}/s",
            f"{row['ratio']:.2f}",
        ]
        for row in report["rows"]
    ]
    lines = [
        "# The tools' speed",
        "",
        f"    {report['command']}",
        "",
        *machine_lines(report["machine"]),
        f"- {report['settings']}",
        "",
        *table(head, cells),
        "",
        NOTES.format(start=report["start"]),
    ]
    return "\n".join(lines) + "\n"
