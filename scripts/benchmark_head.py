"""Measure the head: step time, memory beyond the state, and the distance from the machine's limit.

Every method is compared with a baseline, called "usual": a dense softmax and stock SGD over the
whole table, in plain PyTorch. The methods take turns after each step, each in its own processes.
Prints a table, writes it as Markdown, and writes every figure as JSON.

    python scripts/benchmark_head.py --preset cpu
    python scripts/benchmark_head.py --classes 200000 --rates 1 0.1 --dtypes fp32 bf16 --ranks 1 2

Presets, each a set of runs that the other options can narrow:

    cpu     200,000 classes at rate 1 and 1,000,000 at rate 0.1, in fp32 and bf16
    memory  10,000 to 3,000,000 classes at rates 1 and 0.1; the table has no times
    h200    the most classes with which the baseline fits in the GPU's memory, 10,000,000 classes,
            and 29,000,000 with bf16 momentum, all at rate 1 in bf16 on one GPU
"""

import argparse
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product

import torch
from tqdm import tqdm

from data.loading.tuning import usable_cores
from recognition.distributed import World, choose_device
from scripts.benchmarks.common.command import benchmark_parser, publish
from scripts.benchmarks.common.machine import describe
from scripts.benchmarks.common.processes import in_fresh_process
from scripts.benchmarks.head.cases import DTYPES, HeadCase
from scripts.benchmarks.head.compare import StepCounts, free_bytes, measure_group, most_classes
from scripts.benchmarks.head.methods import BASELINE, METHODS
from scripts.benchmarks.head.rates import measure_rates
from scripts.benchmarks.head.report import markdown, record
from scripts.common.command import command, exit_with


@dataclass(frozen=True)
class PresetSize:
    """What is compared at one size: every method with every dtype, on batches of `batch`."""

    classes: int | None  # None: the most with which every method fits in memory
    rate: float
    methods: tuple[str, ...] = (BASELINE, "partial_fc")
    dtypes: tuple[str, ...] = ("fp32",)
    batch: int = 128


PRESETS: dict[str, tuple[PresetSize, ...]] = {
    "cpu": (
        PresetSize(200_000, 1.0, dtypes=("fp32", "bf16")),
        PresetSize(1_000_000, 0.1, dtypes=("fp32", "bf16")),
    ),
    "memory": tuple(
        PresetSize(classes, rate, ("partial_fc", "bf16_momentum"))
        for classes, rate in product((10_000, 100_000, 1_000_000, 3_000_000), (1.0, 0.1))
    ),
    "h200": (
        PresetSize(None, 1.0, (BASELINE, "partial_fc", "kept"), ("bf16",), batch=1024),
        PresetSize(10_000_000, 1.0, (BASELINE, "partial_fc", "kept"), ("bf16",), batch=1024),
        PresetSize(29_000_000, 1.0, ("bf16_momentum",), ("bf16",), batch=1024),
    ),
}


parser = benchmark_parser("benchmark_head", __doc__)
add = parser.add_argument
add("--preset", choices=list(PRESETS), help="a set of runs, instead of --classes and --rates")
add("--classes", type=int, nargs="+", help="number of classes over all ranks")
add("--rates", type=float, nargs="+", help="fraction of the classes that a step uses; 1 is all")
add("--methods", nargs="+", choices=list(METHODS), help="methods to measure")
add("--dtypes", nargs="+", choices=list(DTYPES), help="precision of the matrix "
    "products; all are compared with the baseline in fp32 if that is among them")  # fmt: skip
add("--batch", type=int, help="batch size over all ranks")
add("--dim", type=int, default=512, help="embedding size")
add("--ranks", type=int, nargs="+", default=[1], help="number of processes that share the classes")
add("--device", choices=["auto", "cpu", "cuda"], default="auto", help="device to measure on")
add("--threads", type=int, help="CPU threads of all ranks together; default: all cores")
add("--steps", type=int, default=5, help="timed steps")
add("--warm-up", type=int, default=2, help="untimed steps before them")
add("--seed", type=int, default=0, help="seed of centres, embeddings and labels")


def groups(options: argparse.Namespace, device: str, threads: int) -> list[list[HeadCase]]:
    """Return the cases, grouped by size, rate and ranks.

    Raises `ValueError` for options that name no case of a preset, or an impossible case.
    """
    if options.preset is None:
        classes, rates = options.classes or [200_000], options.rates or [1.0]
        sizes = [PresetSize(*size) for size in product(classes, rates)]
    else:
        sizes = [
            size
            for size in PRESETS[options.preset]
            if size.classes in (options.classes or [size.classes])
            and size.rate in (options.rates or [size.rate])
        ]
        if not sizes:
            raise ValueError(
                f"--preset {options.preset} with --classes {options.classes} and --rates "
                f"{options.rates}: no such size, expected some of "
                f"{[(size.classes, size.rate) for size in PRESETS[options.preset]]}"
            )

    def group(size: PresetSize, ranks: int, classes: int) -> list[HeadCase]:
        return [
            HeadCase(
                method, classes, size.rate, dtype, ranks, options.batch or size.batch,
                options.dim, threads, device, options.seed,
            )
            for method, dtype in product(
                options.methods or size.methods, options.dtypes or size.dtypes
            )
        ]  # fmt: skip

    found = []
    for size, ranks in product(sizes, options.ranks):
        of_classes = partial(group, size, ranks)
        classes_found = size.classes
        if classes_found is None:
            classes_found = most_classes(of_classes, free_bytes(device, ranks) or 0)
        found.append(of_classes(classes_found))
    return found


@command(parser)
def main(options: argparse.Namespace) -> None:
    """Measure everything, and report it."""
    device, _ = choose_device(options.device, World())
    if device.type == "cuda" and max(options.ranks) > torch.cuda.device_count():
        raise ValueError(
            f"--ranks {max(options.ranks)} found, expected at most one for each of "
            f"{torch.cuda.device_count()} CUDA devices"
        )
    threads = options.threads or usable_cores()
    counts = StepCounts(options.warm_up, options.steps, turn=5 if device.type == "cuda" else 2)
    cases = groups(options, device.type, threads)
    dtypes = tuple(sorted({case.dtype for group in cases for case in group} | {"fp32"}))
    rates = in_fresh_process(measure_rates, dtypes, device, threads)
    rows = []
    with tqdm(total=sum(map(len, cases)), unit="case", disable=None, leave=False) as bar:
        for group in cases:
            for result in measure_group(group, counts, bar.set_description):
                rows.append(record(result, rates))
                bar.update()
    figures = {
        "machine": in_fresh_process(partial(describe, threads, device=device.type)),
        "rates": asdict(rates),
        "settings": f"d = {options.dim}, {counts.warm_up} steps to warm up, {counts.steps} timed",
        "rows": rows,
    }
    # The preset for memory takes single steps, whose times mean little.
    publish(options, figures, partial(markdown, times=options.preset != "memory"))


if __name__ == "__main__":
    exit_with(main)
