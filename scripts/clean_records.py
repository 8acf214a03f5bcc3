"""Find wrong labels in face data, report them, and write cleaned records on request.

Finds images with a wrong label, one person under two labels (within a dataset and between several),
two people under one label, the same image twice, and people of verification sets. Without --output
it only reports: report.html, report.json and the label map in the folder --report. Embeddings are
kept there; after an interruption the same command goes on, on any number of ranks.

    python scripts/clean_records.py mine --model runs/demo --verification lfw --folder datasets/demo
    python scripts/clean_records.py datasets/a datasets/b --model r100.onnx --output datasets/clean
    torchrun --nproc-per-node=8 scripts/clean_records.py datasets/mine --model runs/large
"""

import argparse
import math
from datetime import timedelta
from pathlib import Path
from typing import Final

from data.cleaning.decide import DEFAULT_FIXES
from data.cleaning.findings import KINDS
from data.cleaning.write import write_cleaned, write_map
from data.files import OutputFolderError, is_free
from data.progress import progress_bar
from recognition.distributed import barrier, current, process_group
from scripts.cleaning.job import embed_all, examine, open_inputs
from scripts.cleaning.page import write_page
from scripts.cleaning.report import summary, write_report
from scripts.common.command import command, exit_with, make_parser
from scripts.common.record_options import add_sharding, print_written, sharding_of
from scripts.faces.options import add_network, open_embedder

WAIT: Final = timedelta(days=2)  # for the slowest rank

parser = make_parser(__doc__)
add = parser.add_argument
add("data", nargs="+", help="a dataset as in data.train, or several, to compare them too")
add_network(parser)
add("--verification", nargs="*", default=[], metavar="SET", help="sets: names, or .bin files")
add("--folder", type=Path, help="where the sets are (default: the first dataset)")
add("--report", type=Path, default=Path("runs/clean_records"), help="folder of report and cache")
add("--output", type=Path, help="folder to write the cleaned records to")
add(
    "--fix",
    nargs="*",
    choices=KINDS,
    default=list(DEFAULT_FIXES),
    metavar="KIND",
    help=f"kinds of findings that are acted on, of {', '.join(KINDS)}",
)
add("--precision", type=float, default=0.95, help="of the findings of each kind, as estimated")
add(
    "--threshold",
    nargs="*",
    default=[],
    metavar="KIND=SCORE",
    help="instead of a chosen one, for swapped, relabel, same, merged or leaked",
)
add("--seed", type=int, default=0, help="of what is planted to choose thresholds")
add_sharding(parser)


@command(parser)
def main(options: argparse.Namespace) -> None:
    """Embed on all ranks; examine, report and write on the first."""
    check(options)
    world = current()
    inputs, embedder = open_inputs(options), open_embedder(options)
    data, sets = embed_all(inputs, embedder, options.report / "embeddings")
    if world.size > 1:
        # Only now: ranks embed at their own pace, and none of them waits for another.
        with process_group(embedder.device, WAIT.total_seconds()):
            barrier()
    if not world.is_main:
        return
    outcome = examine(inputs, data, sets, embedder, options)
    write_report(inputs, outcome, embedder, options)
    write_map(inputs.dataset, inputs.names, outcome.plan, options.report)
    write_page(inputs, outcome, options)
    print(summary(inputs, outcome))
    print(f"{options.report / 'report.html'}: the faces to look at")
    if options.output is not None:
        with progress_bar(str(options.output), "image") as progress:
            counts = write_cleaned(
                inputs.dataset,
                inputs.names,
                outcome.plan,
                options.output,
                sharding=sharding_of(options),
                progress=progress,
            )
        print_written(options.output, counts, f"; fixed: {', '.join(options.fix) or 'nothing'}")


def check(options: argparse.Namespace) -> None:
    """Raise `ValueError`, before the work, for options that make no sense."""
    if not 0.5 <= options.precision < 1:
        raise ValueError(f"--precision is {options.precision}: expected 0.5 to below 1")
    if options.output is not None and not is_free(options.output):
        raise OutputFolderError(
            f"{options.output} exists and is not an empty folder: choose another, or remove it"
        )
    sharding_of(options)
    options.thresholds = {}
    kinds = ("swapped", "relabel", "same", "merged", "leaked")
    for text in options.threshold:
        kind, _, number = text.partition("=")
        try:
            options.thresholds[kind] = float(number)
            if not math.isfinite(options.thresholds[kind]):
                kind = ""
        except ValueError:
            kind = ""
        if kind not in kinds:
            raise ValueError(f"--threshold {text}: expected KIND=SCORE, of {', '.join(kinds)}")


if __name__ == "__main__":
    exit_with(main, "interrupted: run the same command again to go on")
