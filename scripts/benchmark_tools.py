"""Measure pack_records and check_records beside the bare loops that bound them.

Each takes turns with a loop that reads, decodes or writes the same bytes and does nothing else.
Prints a table, and writes it as Markdown and every figure as JSON. It makes its own images first:
1.8 GB in --folder, which are used again.

    python scripts/benchmark_tools.py --markdown docs/benchmarks/tools.md
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.loading.tuning import usable_cores
from data.progress import progress_bar
from scripts.benchmarks.common.frame import report_on
from scripts.benchmarks.tools.cases import (
    Case,
    decode_case,
    encode_case,
    keep_case,
    scan_case,
)
from scripts.benchmarks.tools.report import markdown, measure, rows_of
from scripts.command import exit_with

ROOT = Path(__file__).parents[1]
_STARTS = 5


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--folder", type=Path, default=Path("datasets/benchmark_tools"), help="for what it makes, "
        "on the disk that is to be measured")  # fmt: skip
    add("--images", type=int, default=39_760, help="of the set")
    add("--large", type=int, default=270_000, help="of a file that is only read; 0 leaves it out")
    add("--rounds", type=int, default=7, help="turns of each case")
    add("--json", type=Path, default=Path("runs/benchmark_tools.json"), help="file of all figures")
    add("--markdown", type=Path, help="file for the table, for docs/benchmarks/")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace, command: str) -> dict[str, Any]:
    """Measure everything; return the report."""
    workers = usable_cores()
    cases = _cases(options, workers)
    with progress_bar("measuring", "turn") as progress:
        turns = iter(range(1, options.rounds * len(cases) + 1))
        total = options.rounds * len(cases)
        seconds = measure(cases, options.rounds, lambda: progress(next(turns), total))
    return {
        "command": command,
        "machine": _machine(workers),
        "settings": f"{options.images:,} JPEGs of 112x112 pixels, some 5.5 kB each; {workers} "
        f"workers; {options.rounds} rounds",
        "rows": rows_of(cases, seconds),
        "start": statistics.median(_start_seconds() for _ in range(_STARTS)),
    }


def _cases(options: argparse.Namespace, workers: int) -> list[Case]:
    folder, count = options.folder.absolute(), options.images
    if count < 1 or options.large < 0:
        raise ValueError(
            f"--images {count} --large {options.large}: expected at least 1, and at least 0"
        )
    making = [str(folder), str(count), str(options.large)]
    subprocess.run(
        [sys.executable, "-m", "scripts.benchmarks.tools.images", *making], cwd=ROOT, check=True
    )
    people, records = folder / f"people_{count}", folder / f"records_{count}" / "train.rec"
    scratch = folder / "scratch"
    cases = [scan_case("check_records --no-decode", records, cold=True)]
    if options.large:
        large = folder / f"records_{options.large}" / "train.rec"
        cases.append(scan_case("the same, a larger file", large, cold=True))
    return [
        *cases,
        scan_case("the same, in the cache", records, cold=False),
        decode_case(records, workers),
        keep_case(people, scratch, count),
        encode_case(people, scratch, count, workers),
    ]


def _start_seconds() -> float:
    """Return how long Python takes until a command's work begins."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import scripts.check_records"], cwd=ROOT, check=True)
    return time.perf_counter() - begun


def _machine(workers: int) -> dict[str, Any]:
    # Here, since the packer's worker processes import this file, and torch takes seconds.
    import torch

    from scripts.benchmarks.common.machine import describe, installed

    machine = describe(torch.device("cpu"), workers)
    machine["versions"] |= installed(("numpy", "simplejpeg", "pillow"))
    return machine


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    options = parse(arguments)
    return report_on("scripts/benchmark_tools.py", options, arguments, run, markdown)


if __name__ == "__main__":
    exit_with(main)
