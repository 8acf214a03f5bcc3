"""The report: every figure as JSON, and the main ones as a Markdown table."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from scripts.benchmarks.common.table import machine_lines, table
from scripts.benchmarks.head.compare import Row
from scripts.benchmarks.head.machine import Rates

NOTES = """\
- step: forward pass, backward pass into the embeddings, and update, median of the timed steps.
- choose: of that, choosing the classes that take part.
- faster: the usual approach's median, from steps taken in turn with these, over this one.
- beyond state: largest memory of the processes during all steps, less the centres and what their
  optimizer keeps.
- state a class: bytes of one class's centre and of what the optimizer keeps for it.
- TFLOP/s: of the matrix products made; beside it the share of the rate of square products here.
- GB/s: state of the rows that the rule changes, read once and written once, over the step; beside
  it the share of the rate of copying memory here.
- over limit: the step over the longer of these two at the machine's own rates.
- loss, centres: largest relative difference to the usual approach after the warm-up steps."""


def record(row: Row, rates: Rates) -> dict[str, Any]:
    """Return all that is known of a row, in seconds, bytes and operations."""
    case = row.case
    known: dict[str, Any] = {
        "method": case.method,
        "classes": case.classes,
        "rate": case.rate,
        "dtype": case.dtype,
        "ranks": case.ranks,
        "batch": case.batch,
        "dim": case.dim,
        "problem": row.problem,
    }
    if row.account is None:
        return known
    step = _times([one.seconds for one in row.steps])
    known["step_seconds"] = step
    known["loss"] = [one.loss for one in row.first]
    if row.reference:
        known["reference_seconds"] = _times([one.seconds for one in row.reference])
        known["times_faster"] = known["reference_seconds"]["median"] / step["median"]
    chosen = [one.selection_seconds for one in row.steps if one.selection_seconds is not None]
    known["selection_seconds"] = statistics.median(chosen) if chosen else None
    known["agreement"] = None if row.agreement is None else asdict(row.agreement)
    account, work = row.account, row.account.work
    known |= {
        "active_classes": work.active,
        "state_bytes": account.state_bytes,
        "state_bytes_per_class": account.state_bytes / case.classes,
        "beyond_state_bytes": account.beyond_bytes,
        "beyond_state_share": account.beyond_bytes / account.state_bytes,
        "memory_source": account.memory_source,
    }
    # Ranks share one CPU; each has a GPU of its own.
    machines = case.ranks if case.device == "cuda" else 1
    products = work.flops / (rates.flops[case.dtype] * machines)
    traffic = work.state_bytes / (rates.copy * machines)
    return known | {
        "flops": work.flops,
        "flops_per_second": work.flops / step["median"],
        "flops_share": products / step["median"],
        "state_traffic_bytes": work.state_bytes,
        "bytes_per_second": work.state_bytes / step["median"],
        "bytes_share": traffic / step["median"],
        "limit_seconds": max(products, traffic),
        "times_limit": step["median"] / max(products, traffic),
    }


def markdown(report: Mapping[str, Any]) -> str:
    """Return the report as a page: machine, table, and what the columns mean."""
    rates = report["rates"]
    flops = rates["flops"].items()
    products = ", ".join(f"{rate / 1e12:.2f} TFLOP/s {name}" for name, rate in flops)
    lines = [
        "# The head's speed and memory",
        "",
        f"    {report['command']}",
        "",
        *machine_lines(report["machine"]),
        f"- measured here: {products} (square products), {rates['copy'] / 1e9:.1f} GB/s copied",
        f"- {report['settings']}",
        "",
        *_table(report["rows"]),
        "",
        NOTES,
    ]
    return "\n".join(lines) + "\n"


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    head = [
        "method", "classes", "rate", "dtype", "ranks", "batch",
        "step ms", "min ms", "choose ms", "faster", "beyond state MB", "of state", "state a class",
        "TFLOP/s", "of limit", "GB/s", "of limit", "over limit", "loss", "centres",
    ]  # fmt: skip
    cells = [[*_what(row), *_figures(row, len(head) - 6)] for row in rows]
    return table(head, cells)


def _what(row: Mapping[str, Any]) -> list[str]:
    return [
        row["method"],
        f"{row['classes']:,}",
        f"{row['rate']:g}",
        row["dtype"],
        str(row["ranks"]),
        str(row["batch"]),
    ]


def _figures(row: Mapping[str, Any], count: int) -> list[str]:
    if "step_seconds" not in row:
        problem = str(row["problem"]).strip().splitlines()[-1]
        return [problem, *[""] * (count - 1)]
    agreement, chosen = row["agreement"], row["selection_seconds"]
    return [
        f"{row['step_seconds']['median'] * 1e3:.1f}",
        f"{row['step_seconds']['min'] * 1e3:.1f}",
        "–" if chosen is None else f"{chosen * 1e3:.1f}",
        f"{row['times_faster']:.2f}x" if "times_faster" in row else "–",
        f"{row['beyond_state_bytes'] / 1e6:.1f}",
        f"{row['beyond_state_share']:.1%}",
        f"{row['state_bytes_per_class']:.0f} B",
        f"{row['flops_per_second'] / 1e12:.3f}",
        f"{row['flops_share']:.0%}",
        f"{row['bytes_per_second'] / 1e9:.1f}",
        f"{row['bytes_share']:.0%}",
        f"{row['times_limit']:.2f}",
        "–" if agreement is None else f"{agreement['loss']:.0e}",
        "–" if agreement is None else f"{agreement['weight']:.0e}",
    ]


def _times(seconds: Sequence[float]) -> dict[str, Any]:
    return {"median": statistics.median(seconds), "min": min(seconds), "all": list(seconds)}
