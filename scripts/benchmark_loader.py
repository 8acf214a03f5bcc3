"""Measure the loader, and compare it with the decoder alone and with the incumbent's loader.

They take turns reading the same records in the same order. Prints a table, writes it as Markdown,
and writes every figure as JSON. Without --data it makes synthetic records first.

    python scripts/benchmark_loader.py
    python scripts/benchmark_loader.py --data datasets/ms1m --markdown docs/benchmarks/loader.md
"""

import argparse
from pathlib import Path

import torch

from data.datasets.dataset import open_dataset
from data.datasets.sources import RecordImages
from scripts.benchmarks.common.command import benchmark_parser, publish
from scripts.benchmarks.common.demo import demo_dataset
from scripts.benchmarks.common.machine import describe
from scripts.benchmarks.common.turns import take_turns
from scripts.benchmarks.loader.incumbent import choose_reader
from scripts.benchmarks.loader.index_case import GLINT360K_IMAGES, measure_index
from scripts.benchmarks.loader.report import markdown, record
from scripts.benchmarks.loader.ways import Workload, all_ways
from scripts.common.command import command, exit_with

SYNTHETIC = Path("datasets/benchmark_loader")
INDEX = Path("datasets/benchmark_index")
PACKAGES = ("torchvision", "simplejpeg", "pillow", "mxnet", "nvidia-dali-cuda130")


parser = benchmark_parser("benchmark_loader", __doc__)
add = parser.add_argument
add("--data", type=Path, help=f"a .rec file or its folder; default: make {SYNTHETIC}")
add("--image-size", type=int, default=112, help="pixels per side")
add("--batch", type=int, default=128, help="images per batch")
add("--rounds", type=int, default=5, help="turns of each loader")
add("--seconds", type=float, default=1.0, help="seconds per turn")
add("--seed", type=int, default=0, help="seed of the order")
add("--incumbent", choices=["auto", "mxnet", "python"], default="auto", help="what reads and "
    "decodes for the incumbent; auto is mxnet where it is installed")  # fmt: skip
add("--index", type=int, nargs="?", const=GLINT360K_IMAGES, metavar="IMAGES", help="also "
    "measure opening an index of this many images, by default Glint360K's number")  # fmt: skip


@command(parser)
def main(options: argparse.Namespace) -> None:
    """Measure everything, and report it."""
    reader = choose_reader(options.incumbent)
    dataset = demo_dataset(SYNTHETIC) if options.data is None else open_dataset(options.data)
    if len(dataset.sources) > 1 or not isinstance(dataset.sources[0], RecordImages):
        raise ValueError(f"--data {options.data}: expected one .rec file, which all ways can read")
    torch.set_num_threads(1)  # one process is one core, in the incumbent's transforms too
    ways = all_ways(Workload(dataset, options.image_size, options.batch, options.seed), reader)
    samples = take_turns(ways, lambda way, _: way.measure(options.seconds), options.rounds)
    mean_bytes = sum(len(dataset.encoded(i)) for i in range(len(dataset))) / len(dataset)
    figures = {
        "machine": describe(1, packages=PACKAGES),
        "settings": f"{len(dataset):,} images of {mean_bytes:,.0f} bytes, read into "
        f"{options.image_size}x{options.image_size} pixels, batches of {options.batch}; "
        f"{options.rounds} rounds of {options.seconds:g} s",
        "incumbent": reader,
        **record(ways, samples),
        "index": None if options.index is None else measure_index(options.index, INDEX),
    }
    publish(options, figures, markdown)


if __name__ == "__main__":
    exit_with(main)
