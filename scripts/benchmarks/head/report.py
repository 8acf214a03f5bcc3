"""The report: every figure as JSON, and the main ones as a Markdown table."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from scripts.benchmarks.common.page import Column, Row, optional, page, table
from scripts.benchmarks.head.compare import CaseResult
from scripts.benchmarks.head.rates import Rates


def record(result: CaseResult, rates: Rates) -> dict[str, Any]:
    """Return all that is known of a case, in seconds, bytes and operations."""
    case = result.case
    keys = ("method", "classes", "rate", "dtype", "ranks", "batch", "dim")
    known: dict[str, Any] = {key: getattr(case, key) for key in keys}
    known["problem"] = result.problem
    if result.usage is None:
        return known
    step = _times([one.seconds for one in result.steps])
    known["step_seconds"] = step
    known["loss"] = [one.loss for one in result.warm_up]
    if result.baseline:
        known["reference_seconds"] = _times([one.seconds for one in result.baseline])
        known["times_faster"] = known["reference_seconds"]["median"] / step["median"]
    choosing = [one.selection_seconds for one in result.steps if one.selection_seconds is not None]
    known["selection_seconds"] = statistics.median(choosing) if choosing else None
    known["agreement"] = None if result.agreement is None else asdict(result.agreement)
    usage, work = result.usage, result.usage.work
    # Ranks share one CPU; each has a GPU of its own.
    machines = case.ranks if case.device == "cuda" else 1
    products = work.flops / (rates.flops[case.dtype] * machines)
    traffic = work.state_bytes / (rates.copy * machines)
    return known | {
        "active_classes": work.active,
        "state_bytes": usage.state_bytes,
        "state_bytes_per_class": usage.state_bytes / case.classes,
        "beyond_state_bytes": usage.beyond_bytes,
        "beyond_state_share": usage.beyond_bytes / usage.state_bytes,
        "memory_source": usage.memory_source,
        "flops": work.flops,
        "flops_per_second": work.flops / step["median"],
        "flops_share": products / step["median"],
        "state_traffic_bytes": work.state_bytes,
        "bytes_per_second": work.state_bytes / step["median"],
        "bytes_share": traffic / step["median"],
        "limit_seconds": max(products, traffic),
        "times_limit": step["median"] / max(products, traffic),
    }


def _times(seconds: Sequence[float]) -> dict[str, Any]:
    return {"median": statistics.median(seconds), "min": min(seconds), "all": list(seconds)}


class _Group(NamedTuple):
    """Columns that belong together, and what they mean."""

    columns: list[Column]
    notes: str


_CASE: list[Column] = [
    ("method", lambda row: row["method"]),
    ("classes", lambda row: f"{row['classes']:,}"),
    ("rate", lambda row: f"{row['rate']:g}"),
    ("dtype", lambda row: row["dtype"]),
    ("ranks", lambda row: str(row["ranks"])),
    ("batch", lambda row: str(row["batch"])),
]

_TIMES = _Group(
    [
        ("step ms", lambda row: f"{row['step_seconds']['median'] * 1e3:.1f}"),
        ("min ms", lambda row: f"{row['step_seconds']['min'] * 1e3:.1f}"),
        ("choose ms", lambda row: optional(row["selection_seconds"], "{:.1f}", 1e3)),
        ("faster", lambda row: optional(row.get("times_faster"), "{:.2f}x")),
    ],
    """\
- step: forward pass, backward pass to the embeddings, and update; median of the timed steps.
- choose: the part of the step that chooses which classes take part.
- faster: the step time of `usual` over this one, from steps taken in turn. `usual` is the baseline:
  a dense softmax and stock SGD over the whole table, in plain PyTorch.""",
)

_MEMORY = _Group(
    [
        ("beyond state MB", lambda row: f"{row['beyond_state_bytes'] / 1e6:.1f}"),
        ("of state", lambda row: f"{row['beyond_state_share']:.1%}"),
        ("state per class", lambda row: f"{row['state_bytes_per_class']:.0f} B"),
    ],
    """\
- beyond state: peak memory of the processes during all steps, minus the centres and their optimizer
  state.
- state per class: bytes per class of the centre and its optimizer state.""",
)

_LIMITS = _Group(
    [
        ("TFLOP/s", lambda row: f"{row['flops_per_second'] / 1e12:.3f}"),
        ("of limit", lambda row: f"{row['flops_share']:.0%}"),
        ("GB/s", lambda row: f"{row['bytes_per_second'] / 1e9:.1f}"),
        ("of limit", lambda row: f"{row['bytes_share']:.0%}"),
        ("over limit", lambda row: f"{row['times_limit']:.2f}"),
    ],
    """\
- TFLOP/s: of the matrix products; of limit: relative to this machine's rate of square products.
- GB/s: the state of all rows that the update changes, read once and written once, over the step
  time; of limit: relative to this machine's rate of copying memory.
- over limit: the step time over the longer of the two times that products and state traffic would
  take at these rates.""",
)

_AGREEMENT = _Group(
    [
        ("loss", lambda row: _difference(row, "loss")),
        ("centres", lambda row: _difference(row, "weight")),
    ],
    "- loss, centres: largest relative difference from `usual` after the warm-up steps.",
)


def markdown(report: Mapping[str, Any], *, times: bool = True) -> str:
    """Return the report as a page; without `times` only memory and agreement are in its table."""
    groups = [_TIMES, _MEMORY, _LIMITS, _AGREEMENT] if times else [_MEMORY, _AGREEMENT]
    columns = [column for group in groups for column in group.columns]
    head = [name for name, _ in [*_CASE, *columns]]
    cells = [[*(cell(row) for _, cell in _CASE), *_figures(row, columns)] for row in report["rows"]]
    rates = report["rates"]
    products = ", ".join(
        f"{rate / 1e12:.2f} TFLOP/s {name}" for name, rate in rates["flops"].items()
    )
    measured = f"measured here: {products} (square products), {rates['copy'] / 1e9:.1f} GB/s copied"
    return page(
        "The head's speed and memory" if times else "The head's memory",
        report,
        table(head, cells),
        "\n".join(group.notes for group in groups),
        setting=[measured] if times else [],
    )


def _figures(row: Row, columns: Sequence[Column]) -> list[str]:
    if "step_seconds" not in row:
        problem = str(row["problem"]).strip().splitlines()[-1]
        return [problem, *[""] * (len(columns) - 1)]
    return [cell(row) for _, cell in columns]


def _difference(row: Row, name: str) -> str:
    return optional((row["agreement"] or {}).get(name), "{:.0e}")
