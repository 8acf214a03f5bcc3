"""Times a case, and puts what was measured into a page."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from scripts.benchmarks.common.page import Column, page, table_of
from scripts.benchmarks.common.turns import median_ratio
from scripts.benchmarks.tools.cases import ToolCase

TARGET = 1.3

NOTES = f"""\
- bare, tool: median of the rounds; then the tool's fastest and slowest round. They are called
  within Python: starting a command takes {{start:.2f}} s more.
- ratio: median over the rounds of the tool's time over the bare loop's in the same round, which
  should be at most {TARGET}. Which of the two is first alternates.
- check_records --no-decode: compared with reading the file 4 MiB at a time, from the disk: the
  system's cache of the file is emptied before each run. The case in the cache has no target, as no
  disk is that fast.
- check_records: compared with a loop that only decodes the same records, in as many processes.
- pack_records: compared with listing the folder, and reading each file and appending it to one that
  is flushed to the disk at the end.
- pack_records --encode jpeg: compared with a loop that only lists, reads, decodes and encodes, in
  as many processes, and writes nothing."""

COLUMNS: list[Column] = [
    ("case", lambda row: row["case"]),
    ("of", lambda row: f"{row['amount']:,.0f} {row['unit']}"),
    ("bare", lambda row: f"{statistics.median(row['bare']):.3f} s"),
    ("tool", lambda row: f"{statistics.median(row['tool']):.3f} s"),
    ("fastest", lambda row: f"{min(row['tool']):.3f} s"),
    ("slowest", lambda row: f"{max(row['tool']):.3f} s"),
    ("rate", lambda row: f"{row['amount'] / statistics.median(row['tool']):,.0f} {row['unit']}/s"),
    ("ratio", lambda row: f"{row['ratio']:.2f}"),
]


def measure_case(case: ToolCase, number: int) -> tuple[float, float]:
    """Return the seconds of (bare, tool); in rounds with an odd `number` the tool is first."""
    if number % 2:
        tool, bare = _timed(case, case.tool), _timed(case, case.bare)
    else:
        bare, tool = _timed(case, case.bare), _timed(case, case.tool)
    return bare, tool


def _timed(case: ToolCase, action: Callable[[], object]) -> float:
    case.before()
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def record(
    cases: Sequence[ToolCase], seconds: Sequence[Sequence[tuple[float, float]]]
) -> list[dict[str, Any]]:
    """Return the figures of each case, from the seconds of (bare, tool) in each round."""
    rows = []
    for case, taken in zip(cases, seconds, strict=True):
        bare, tool = [one for one, _ in taken], [one for _, one in taken]
        rows.append(
            {
                "case": case.name,
                "amount": case.amount,
                "unit": case.unit,
                "bare": bare,
                "tool": tool,
                "ratio": median_ratio(tool, bare),
            }
        )
    return rows


def markdown(report: Mapping[str, Any]) -> str:
    """Return the report as a page."""
    return page(
        "The tools' speed",
        report,
        table_of(COLUMNS, report["rows"]),
        NOTES.format(start=report["start"]),
    )
