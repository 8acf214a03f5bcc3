"""Compare the figures of two runs number by number, to see whether a change altered training.

    python scripts/compare_runs.py runs/before runs/after

Every number of metrics.jsonl must be the same, except times and memory. Prints the first records
that differ. The exit status is 0 if the runs are equal, otherwise 1.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from scripts.common.command import command, exit_with, make_parser

# They differ from run to run.
MEASURED = {
    "seconds", "images_per_second", "data_wait", "memory_gb", "selection_seconds", "memory",
    "data_wait_by_rank", "memory_gb_by_rank",
}  # fmt: skip
SHOWN = 3

Record = dict[str, Any]

parser = make_parser(__doc__)
parser.add_argument("runs", nargs=2, type=Path, help="the two run folders")


@command(parser, failed=2)
def main(options: argparse.Namespace) -> int:
    """Compare and print what differs; return the exit status."""
    first, second = (read_records(run) for run in options.runs)
    differences = differing(first, second)
    for place, values in list(differences.items())[:SHOWN]:
        print(place)
        for name, (one, other) in values.items():
            print(f"    {name}: {one} and {other}")
    if len(first) != len(second):
        print(f"{len(first)} and {len(second)} records")
    same = not differences and len(first) == len(second)
    print(f"{len(first)} records are equal" if same else f"{len(differences)} records differ")
    return 0 if same else 1


def read_records(run: Path) -> list[Record]:
    """Return the records of a run's metrics.jsonl without what was measured."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [
        {name: value for name, value in json.loads(line).items() if name not in MEASURED}
        for line in lines
    ]


def differing(first: list[Record], second: list[Record]) -> dict[str, dict[str, tuple[Any, Any]]]:
    """Return the values that differ, by name, of each pair of records that are not equal."""
    differences = {}
    for one, other in zip(first, second, strict=False):
        names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
        if names:
            place = " ".join([one["event"], *one.get("set", "").split(), f"at step {one['step']}"])
            differences[place] = {name: (one.get(name), other.get(name)) for name in names}
    return differences


if __name__ == "__main__":
    exit_with(main)
