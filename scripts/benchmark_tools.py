"""Measure pack_records and check_records, and compare them with the least that they must do.

Each takes turns with a loop that only reads, decodes or writes the same bytes.
Prints a table, writes it as Markdown, and writes every figure as JSON. It first generates images,
1.8 GB in --folder, which later runs use again.

    python scripts/benchmark_tools.py --markdown docs/benchmarks/tools.md
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from data.loading.tuning import usable_cores
from scripts.benchmarks.common.command import benchmark_parser, publish
from scripts.benchmarks.common.machine import ROOT, describe
from scripts.benchmarks.common.turns import take_turns
from scripts.benchmarks.tools.cases import ToolCase, tool_cases
from scripts.benchmarks.tools.report import markdown, measure_case, record
from scripts.common.command import command, exit_with

_STARTS = 5


parser = benchmark_parser("benchmark_tools", __doc__)
add = parser.add_argument
add("--folder", type=Path, default=Path("datasets/benchmark_tools"), help="folder for the "
    "generated files, on the disk to measure")  # fmt: skip
add("--images", type=int, default=39_760, help="number of images to pack")
add(
    "--large",
    type=int,
    default=270_000,
    help="number of images in a large file that is only read; 0 for none",
)
add("--rounds", type=int, default=7, help="turns of each case")


@command(parser)
def main(options: argparse.Namespace) -> None:
    """Measure everything, and report it."""
    workers = usable_cores()
    cases = _cases(options, workers)
    seconds = take_turns(cases, measure_case, options.rounds)
    figures = {
        "machine": describe(workers, packages=("numpy", "simplejpeg", "pillow")),
        "settings": f"{options.images:,} JPEGs of 112x112 pixels, some 5.5 kB each; {workers} "
        f"workers; {options.rounds} rounds",
        "rows": record(cases, seconds),
        "start": statistics.median(_start_seconds() for _ in range(_STARTS)),
    }
    publish(options, figures, markdown)


def _cases(options: argparse.Namespace, workers: int) -> list[ToolCase]:
    folder, count = options.folder.absolute(), options.images
    if count < 1 or options.large < 0:
        raise ValueError(
            f"--images {count} --large {options.large}: expected --images of at least 1 and "
            "--large of at least 0"
        )
    arguments = [str(folder), str(count), str(options.large)]
    subprocess.run(
        [sys.executable, "-m", "scripts.benchmarks.tools.images", *arguments], cwd=ROOT, check=True
    )
    large = folder / f"records_{options.large}" / "train.rec" if options.large else None
    records = folder / f"records_{count}" / "train.rec"
    return tool_cases(folder / f"people_{count}", records, folder / "scratch", workers, large)


def _start_seconds() -> float:
    """Return how long Python takes to start a command."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import scripts.check_records"], cwd=ROOT, check=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    exit_with(main)
