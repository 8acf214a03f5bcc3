r"""Plant faults among the demo's people, and measure how many of them clean_records finds.

Prints a table, writes it as Markdown, and writes every figure as JSON. The network is one that was
trained on the demo's data as it is; time and memory of a larger set are measured beside it.

    python scripts/benchmark_cleaning.py --model runs/demo --seeds 1 2 3 \
        --markdown docs/benchmarks/cleaning.md
"""

import argparse
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import get_num_threads

from data.demo.generate import VERIFICATION_SETS
from scripts.benchmarks.cleaning.plant import plant, write
from scripts.benchmarks.cleaning.report import markdown
from scripts.benchmarks.cleaning.scale import measure_scale
from scripts.benchmarks.cleaning.score import score
from scripts.benchmarks.common.command import benchmark_parser, publish
from scripts.benchmarks.common.machine import describe
from scripts.benchmarks.common.processes import in_fresh_process
from scripts.clean_records import check
from scripts.clean_records import parser as command_parser
from scripts.cleaning.job import embed_all, examine, open_inputs
from scripts.cleaning.report import write_report
from scripts.common.command import command, exit_with
from scripts.faces.options import open_embedder

parser = benchmark_parser("benchmark_cleaning", __doc__)
add = parser.add_argument
add("--model", type=Path, required=True, help="a network trained on the demo's data")
add("--demo", type=Path, default=Path("datasets/demo"), help="the demo's data")
add("--seeds", type=int, nargs="+", default=[0], help="seeds of where the faults are")
add("--images", type=int, default=170_000, help="embeddings of the larger set, 0 for none")
add("--identities", type=int, default=3_600, help="identities of the larger set")
add("--work", type=Path, help="folder to keep the sets and their embeddings in, to go on")
add("--size", type=int, default=512, help="numbers of an embedding of the larger set")


@command(parser)
def main(options: argparse.Namespace) -> None:
    """Measure everything, and report it."""
    runs = []
    for seed in options.seeds:
        with TemporaryDirectory(prefix="cleaning-") as folder:
            runs.append(measure(options, seed, (options.work or Path(folder)) / f"seed_{seed}"))
    scale = None
    if options.images:
        with TemporaryDirectory(prefix="cleaning-") as folder:
            scale = in_fresh_process(
                measure_scale, Path(folder), options.images, options.identities, options.size
            )
    figures = {
        "settings": f"network {options.model.name}, seeds {options.seeds}",
        "machine": describe(get_num_threads(), packages=("numpy", "faiss-cpu")),
        "runs": runs,
        "scale": scale,
    }
    publish(options, figures, markdown)


def measure(options: argparse.Namespace, seed: int, work: Path) -> dict[str, Any]:
    """Return the figures of one seed."""
    planted = plant(options.demo, seed)
    places = (str(work / "first"), str(work / "second"))
    for photos, place in zip((planted.first, planted.second), places, strict=True):
        if not Path(place).is_dir():
            write(photos, Path(place))
    arguments = [*places, "--model", str(options.model), "--folder", str(options.demo)]
    given = command_parser.parse_args(
        [*arguments, "--verification", *VERIFICATION_SETS, "--report", str(work / "report")]
    )
    check(given)
    inputs, embedder = open_inputs(given), open_embedder(given)
    begin = time.perf_counter()
    data, sets = embed_all(inputs, embedder, given.report / "embeddings")
    embedded = time.perf_counter()
    outcome = examine(inputs, data, sets, embedder, given)
    examined = time.perf_counter()
    write_report(inputs, outcome, embedder, given)
    report = json.loads((given.report / "report.json").read_text(encoding="utf-8"))
    return {
        "seed": seed,
        "images": len(inputs.dataset) + sum(len(pairs) for _, pairs in inputs.sets),
        "set_images": sum(len(pairs) for _, pairs in inputs.sets),
        "earlier": outcome.earlier,  # images that an earlier try had embedded
        "embedding_seconds": embedded - begin,
        "examining_seconds": examined - embedded,
        "rows": score(planted, report, places),
        "cuts": report["cuts"],
    }


if __name__ == "__main__":
    exit_with(main)
