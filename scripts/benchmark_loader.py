"""Measure the loader beside the limit of the decoder and beside the incumbent's way.

All ways read the same records in the same order, in turn. Prints a table, and writes it as
Markdown and every figure as JSON. Without --data it makes synthetic records first.

    python scripts/benchmark_loader.py
    python scripts/benchmark_loader.py --data datasets/ms1m --markdown docs/benchmarks/loader.md
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from data.datasets.dataset import open_dataset
from data.datasets.sources import RecordImages
from data.demo.generate import make_demo_data
from data.progress import progress_bar
from scripts.benchmarks.common.frame import report_on
from scripts.benchmarks.common.machine import describe, installed
from scripts.benchmarks.loader.incumbent import choose_reader
from scripts.benchmarks.loader.index_case import GLINT360K_IMAGES, measure_index
from scripts.benchmarks.loader.measure import measure
from scripts.benchmarks.loader.report import markdown, record
from scripts.benchmarks.loader.ways import Setting, all_ways
from scripts.common.command import exit_with

SYNTHETIC = Path("datasets/benchmark_loader")
INDEX = Path("datasets/benchmark_index")
PACKAGES = ("torchvision", "simplejpeg", "pillow", "mxnet", "nvidia-dali-cuda130")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, help=f".rec, or folder of one; else {SYNTHETIC} is made")
    add("--image-size", type=int, default=112, help="S")
    add("--batch", type=int, default=128, help="images of a batch")
    add("--rounds", type=int, default=5, help="turns of each way")
    add("--seconds", type=float, default=1.0, help="of each turn")
    add("--seed", type=int, default=0, help="of the order")
    add("--incumbent", choices=["auto", "mxnet", "python"], default="auto", help="what reads and "
        "decodes for the incumbent; auto is mxnet where it is installed")  # fmt: skip
    add("--index", type=int, nargs="?", const=GLINT360K_IMAGES, metavar="IMAGES",
        help="open an index of so many images, too; Glint360K's number unless stated")  # fmt: skip
    add("--json", type=Path, default=Path("runs/benchmark_loader.json"), help="file of all figures")
    add("--markdown", type=Path, help="file for the table, for docs/benchmarks/")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace, command: str) -> dict[str, Any]:
    """Measure everything; return the report."""
    reader = choose_reader(options.incumbent)
    if options.data is None:
        with progress_bar(str(SYNTHETIC), "image") as progress:
            make_demo_data(
                SYNTHETIC, identities=200, images=2000, people_per_set=20, progress=progress
            )
    dataset = open_dataset(options.data or SYNTHETIC)
    if len(dataset.sources) > 1 or not isinstance(dataset.sources[0], RecordImages):
        raise ValueError(f"--data {options.data}: expected one .rec file, which all ways can read")
    torch.set_num_threads(1)  # one process is one core, in the incumbent's transforms too
    ways = all_ways(Setting(dataset, options.image_size, options.batch, options.seed), reader)
    with progress_bar("measuring", "turn") as progress:
        total, turns = options.rounds * len(ways), iter(range(1, options.rounds * len(ways) + 1))
        samples = measure(
            ways,
            rounds=options.rounds,
            seconds=options.seconds,
            done=lambda: progress(next(turns), total),
        )
    mean_bytes = sum(len(dataset.encoded(i)) for i in range(len(dataset))) / len(dataset)
    machine = describe(torch.device("cpu"), 1)
    machine["versions"] |= installed(PACKAGES)
    return {
        "command": command,
        "machine": machine,
        "settings": f"{len(dataset):,} images of {mean_bytes:,.0f} bytes, read into "
        f"{options.image_size}x{options.image_size} pixels, batches of {options.batch}; "
        f"{options.rounds} rounds of {options.seconds:g} s",
        "incumbent": reader,
        **record(ways, samples),
        "index": None if options.index is None else measure_index(options.index, INDEX),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    options = parse(arguments)
    return report_on("scripts/benchmark_loader.py", options, arguments, run, markdown)


if __name__ == "__main__":
    exit_with(main)
