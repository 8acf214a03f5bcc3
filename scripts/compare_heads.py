"""Train the same network with every method of a comparison, and report the figures in one table.

    python scripts/compare_heads.py --config configs/compare.yaml --quick

Each method and seed is a run of train.py. The same command continues where it was interrupted: a
finished run is not trained again, an unfinished one continues from its last checkpoint. Writes
results.md, results.json, cosine.png and a TensorBoard folder into the comparison's folder.
"""

import argparse
import shlex
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.build import build_dataset
from eval.build import build_verifier
from recognition.config_file import read_settings
from recognition.distributed import World
from scripts.common.command import command, exit_with, make_parser
from scripts.comparison.curves import draw_curves, require_matplotlib, write_tensorboard
from scripts.comparison.report import SharedSetup, around_marks, insert, markdown, write_json
from scripts.comparison.runs import RunResult, train_all, train_command
from scripts.comparison.settings import Comparison, make_runs

parser = make_parser(__doc__)
add = parser.add_argument
add("--config", type=Path, required=True, help="e.g. configs/compare.yaml")
add("--quick", action="store_true", help="take minutes: apply the config's section quick")
add("--output", type=Path, help="folder of the comparison, instead of the config's")
add("--methods", nargs="+", default=[], metavar="NAME", help="only these methods of the config")
add("--docs", type=Path, metavar="PAGE", help="also write the report into this Markdown "
    "page, between its two comments for it")  # fmt: skip
add(
    "--dry-run",
    action="store_true",
    help="check everything, print the command of each run, and stop",
)


@command(parser)
def main(options: argparse.Namespace) -> int:
    """Compare; return the exit status."""
    comparison = read_settings(options.config, Comparison)
    output: Path = options.output or comparison.output
    if options.quick and options.output is None:
        output = output.with_name(f"{output.name}_quick")
    runs = make_runs(
        comparison, options.config.parent, output=output, quick=options.quick,
        methods=options.methods,
    )  # fmt: skip
    if options.dry_run:
        for run in runs:
            print(shlex.join(train_command(run, comparison.ranks)))
        return 0
    require_matplotlib()
    if options.docs is not None:
        around_marks(options.docs)  # a page without marks must fail now, not after an hour
    # Generates the data if it is the demo's; all runs have the same data and verification sets.
    config, world = runs[0].config, World()
    dataset = build_dataset(config.data, world)
    build_verifier(config, world)
    setup = SharedSetup(config, dataset.num_classes, len(dataset), comparison.ranks)
    results, failed = train_all(runs, comparison.ranks)
    if results:
        report(output, setup, results)
        if options.docs is not None:
            picture = options.docs.with_name(f"{options.docs.stem}_cosine.png")
            shutil.copyfile(output / "cosine.png", picture)
            text = (output / "results.md").read_text()
            insert(options.docs, f"{text}\n![mean cosine to the target centre]({picture.name})")
    if failed:
        print(
            f"error: {len(failed)} of {len(runs)} runs failed: {', '.join(failed)}; the same "
            "command tries them again",
            file=sys.stderr,
        )
    return 1 if failed else 0


def report(output: Path, setup: SharedSetup, results: Sequence[RunResult]) -> None:
    """Write every file of the report, and print the tables."""
    text = markdown(setup, results)
    (output / "results.md").write_text(text)
    write_json(output / "results.json", setup, results)
    draw_curves(output / "cosine.png", results)
    write_tensorboard(output / "tensorboard", results)
    print(f"\n{text}\nin {output}: results.md, results.json, cosine.png, tensorboard")


def _stop(number: int, frame: Any) -> None:
    """End as after Ctrl-C: the run in progress ends too, and is continued the next time."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _stop)
    exit_with(main, "interrupted; the same command continues")
