"""Measure what evaluating a set costs beside the network's own time.

A bare loop over the network takes turns with a verification in training and with the whole command
on the same images and their mirror images. Prints a table, writes it as Markdown, and writes every
figure as JSON. It first generates the images, 75 MB in --folder, which later runs use again.

    python scripts/benchmark_evaluation.py --markdown docs/benchmarks/evaluation.md
    python scripts/benchmark_evaluation.py --device cuda --backbones mbf r50
"""

import argparse
import os
from pathlib import Path

import torch

from backbones import BACKBONES
from recognition.distributed import choose_device, current
from scripts.benchmarks.common.command import benchmark_parser, publish
from scripts.benchmarks.common.machine import describe
from scripts.benchmarks.common.turns import take_turns
from scripts.benchmarks.evaluation.images import made_pairs
from scripts.benchmarks.evaluation.report import markdown, record
from scripts.benchmarks.evaluation.ways import Network, Timer, load
from scripts.common.command import command, exit_with

PACKAGES = ("numpy", "scikit-learn", "simplejpeg")

parser = benchmark_parser("benchmark_evaluation", __doc__)
add = parser.add_argument
add("--folder", type=Path, default=Path("datasets/benchmark_evaluation"), help="folder for the "
    "generated files")  # fmt: skip
add("--images", type=int, default=12_000, help="images of the set, each in one pair")
add("--backbones", nargs="+", choices=sorted(BACKBONES), default=["mbf"], help="networks")
add("--precisions", nargs="+", choices=["fp32", "tf32", "bf16", "fp16"], default=["fp32"],
    help="of the networks; the command is timed in fp32 alone")  # fmt: skip
add("--batch-size", type=int, default=128, help="images per batch, as in training")
add("--replicates", type=int, default=1000, help="of each bootstrap of the command")
add("--rounds", type=int, default=5, help="turns of each network")
add("--device", choices=["auto", "cpu", "cuda"], default="auto", help="device to run on")


@command(parser)
def main(options: argparse.Namespace) -> None:
    """Measure everything, and report it."""
    device, _ = choose_device(options.device, current())
    file = made_pairs(options.folder, options.images)
    workload = load(file, options.batch_size, device)
    networks = [
        Network(backbone, precision, options.folder, device)
        for backbone in options.backbones
        for precision in options.precisions
    ]
    timers = [Timer(network, workload, options.replicates) for network in networks]
    for timer in timers:
        timer.warm_up()
    before = os.getloadavg()[0]
    rounds = take_turns(timers, Timer.measure, options.rounds)
    figures = {
        "machine": describe(torch.get_num_threads(), device=device.type, packages=PACKAGES),
        "settings": f"{workload.images:,} JPEGs of 112x112 pixels with their mirror images, "
        f"batches of {options.batch_size}; {options.rounds} rounds",
        "replicates": options.replicates,
        "load": [before, os.getloadavg()[0]],
        "rows": record(networks, rounds, workload.images),
    }
    publish(options, figures, markdown)


if __name__ == "__main__":
    exit_with(main)
