"""Measure the head: step time, memory beyond the state, and the distance from the machine's limit.

Every method is measured beside the usual approach (a dense softmax and stock SGD over the whole
table, in plain PyTorch), their steps taken in turn, each in processes of its own. Prints a table,
and writes it as Markdown and every figure as JSON.

    python scripts/benchmark_head.py --preset cpu
    python scripts/benchmark_head.py --classes 200000 --rates 1 0.1 --dtypes fp32 bf16 --ranks 1 2

Presets, each a set of runs that the other options may narrow:

    cpu     200,000 classes at rate 1 and 1,000,000 at rate 0.1, in fp32 and bf16
    memory  10,000 to 3,000,000 classes at rates 1 and 0.1
    h200    10,000,000 classes at rate 1, and 29,000,000 with bf16 momentum, on one GPU
"""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from recognition.distributed import World, choose_device
from scripts.benchmarks.common.frame import report_on
from scripts.benchmarks.common.machine import describe
from scripts.benchmarks.head.cases import DTYPES, Case
from scripts.benchmarks.head.compare import Plan, measure_group
from scripts.benchmarks.head.methods import METHODS, REFERENCE
from scripts.benchmarks.head.processes import in_fresh_process, machine_rates
from scripts.benchmarks.head.report import markdown, record
from scripts.command import exit_with


@dataclass(frozen=True)
class Size:
    """What is compared at one size: methods times dtypes, and the samples of a batch."""

    classes: int
    rate: float
    methods: tuple[str, ...] = (REFERENCE, "partial_fc")
    dtypes: tuple[str, ...] = ("fp32",)
    batch: int = 128


PRESETS: dict[str, tuple[Size, ...]] = {
    "cpu": (
        Size(200_000, 1.0, dtypes=("fp32", "bf16")),
        Size(1_000_000, 0.1, dtypes=("fp32", "bf16")),
    ),
    "memory": tuple(
        Size(classes, rate, ("partial_fc", "bf16_momentum"))
        for classes, rate in product((10_000, 100_000, 1_000_000, 3_000_000), (1.0, 0.1))
    ),
    "h200": (
        Size(10_000_000, 1.0, (REFERENCE, "partial_fc", "kept"), ("bf16",), batch=1024),
        Size(29_000_000, 1.0, ("bf16_momentum",), ("bf16",), batch=1024),
    ),
}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--preset", choices=list(PRESETS), help="what to run; else give --classes and --rates")
    add("--classes", type=int, nargs="+", help="C, over all ranks")
    add("--rates", type=float, nargs="+", help="share of the classes in a step; 1 takes all")
    add("--methods", nargs="+", choices=list(METHODS))
    add("--dtypes", nargs="+", choices=list(DTYPES), help="of the products; the usual approach "
        "that others are compared with is fp32 always")  # fmt: skip
    add("--batch", type=int, help="N, over all ranks")
    add("--dim", type=int, default=512, help="d")
    add("--ranks", type=int, nargs="+", default=[1], help="processes that share the work")
    add("--device", choices=["auto", "cpu", "cuda"], default="auto")
    add("--threads", type=int, help="CPU threads of all ranks together; else all cores")
    add("--steps", type=int, default=5, help="timed steps")
    add("--warm-up", type=int, default=2, help="steps before them")
    add("--seed", type=int, default=0)
    add("--json", type=Path, default=Path("runs/benchmark_head.json"), help="file of all figures")
    add("--markdown", type=Path, help="file for the table, for docs/benchmarks/")
    return parser.parse_args(arguments)


def groups(options: argparse.Namespace, device: str, threads: int) -> list[list[Case]]:
    """Return the cases, grouped by size, rate and ranks; raises `ValueError` for what is wrong."""
    if options.preset is None:
        rates = options.rates or [1.0]
        sizes = [Size(one, rate) for one, rate in product(options.classes or [200_000], rates)]
    else:
        sizes = [
            size
            for size in PRESETS[options.preset]
            if size.classes in (options.classes or [size.classes])
            and size.rate in (options.rates or [size.rate])
        ]
        if not sizes:
            raise ValueError(
                f"--preset {options.preset} has no such --classes and --rates: expected some of "
                f"{[(size.classes, size.rate) for size in PRESETS[options.preset]]}"
            )
    return [_group(size, ranks, options, device, threads)
            for size, ranks in product(sizes, options.ranks)]  # fmt: skip


def _group(
    size: Size, ranks: int, options: argparse.Namespace, device: str, threads: int
) -> list[Case]:
    shared = Case(
        REFERENCE,
        size.classes,
        size.rate,
        ranks=ranks,
        batch=options.batch or size.batch,
        dim=options.dim,
        threads=threads,
        device=device,
        seed=options.seed,
    )
    return [
        replace(shared, method=method, dtype=dtype)
        for method, dtype in product(options.methods or size.methods, options.dtypes or size.dtypes)
    ]


def run(options: argparse.Namespace, command: str) -> dict[str, Any]:
    """Measure everything; return the report."""
    device, _ = choose_device(options.device, World())
    if device.type == "cuda" and max(options.ranks) > torch.cuda.device_count():
        raise ValueError(
            f"--ranks {max(options.ranks)} found, expected at most one for each of "
            f"{torch.cuda.device_count()} CUDA devices"
        )
    threads = options.threads or _usable_cores()
    plan = Plan(options.warm_up, options.steps, turn=5 if device.type == "cuda" else 2)
    cases = groups(options, device.type, threads)
    dtypes = tuple(sorted({case.dtype for group in cases for case in group} | {"fp32"}))
    rates = machine_rates(dtypes, device, threads)
    rows = []
    with tqdm(total=sum(map(len, cases)), unit="case", disable=None, leave=False) as bar:
        for group in cases:
            for row in measure_group(group, plan, bar.set_description):
                rows.append(record(row, rates))
                bar.update()
    return {
        "command": command,
        "machine": in_fresh_process(partial(describe, threads, device=device.type)),
        "rates": rates.to_json(),
        "settings": f"d = {options.dim}, {plan.warm_up} steps to warm up, {plan.steps} timed",
        "rows": rows,
    }


def _usable_cores() -> int:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return usable or 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    options = parse(arguments)
    return report_on("scripts/benchmark_head.py", options, arguments, run, markdown)


if __name__ == "__main__":
    exit_with(main)
