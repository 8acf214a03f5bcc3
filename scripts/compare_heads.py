"""Train the same network with every method of a comparison, and put the figures side by side.

    python scripts/compare_heads.py --config configs/compare.yaml --quick

Each method and seed is a run of train.py. The same command continues where it was interrupted: a
finished run is not trained again, an unfinished one goes on from its last checkpoint. Writes
results.md, results.json, cosine.png and a TensorBoard folder into the comparison's own.
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
from recognition.distributed import World
from scripts.comparison.cells import CellResult, command, train_all
from scripts.comparison.curves import draw_curves, require_matplotlib, write_tensorboard
from scripts.comparison.report import Facts, around_marks, insert, markdown, write_json
from scripts.comparison.settings import Cell, load_comparison, make_cells


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True, help="e.g. configs/compare.yaml")
    parser.add_argument(
        "--quick", action="store_true", help="minutes: with the settings of the config's quick"
    )
    parser.add_argument("--output", type=Path, help="in place of the config's folder")
    parser.add_argument(
        "--methods", nargs="+", default=[], metavar="NAME", help="only these, of the config's"
    )
    parser.add_argument(
        "--docs", type=Path, metavar="PAGE",
        help="put the report into a markdown page, too, between its marks for it",
    )  # fmt: skip
    parser.add_argument(
        "--dry-run", action="store_true", help="check everything, print each run's command, stop"
    )
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> int:
    """Compare; return the exit status. Raises `ValueError` for what the user can mend."""
    comparison = load_comparison(options.config)
    output: Path = options.output or comparison.output
    if options.quick and options.output is None:
        output = output.with_name(f"{output.name}_quick")
    cells = make_cells(
        comparison, options.config.parent, output=output, quick=options.quick,
        methods=options.methods,
    )  # fmt: skip
    if options.dry_run:
        for cell in cells:
            print(shlex.join(command(cell, comparison.ranks)))
        return 0
    require_matplotlib()
    if options.docs is not None:
        around_marks(options.docs)  # better now than after an hour
    facts = prepare(cells[0], comparison.ranks)
    results, failed = train_all(cells, comparison.ranks)
    if results:
        report(output, facts, results)
        if options.docs is not None:
            picture = options.docs.with_name(f"{options.docs.stem}_cosine.png")
            shutil.copyfile(output / "cosine.png", picture)
            text = (output / "results.md").read_text()
            insert(options.docs, f"{text}\n![mean cosine to the own centre]({picture.name})")
    if failed:
        print(
            f"error: {len(failed)} of {len(cells)} runs failed: {', '.join(failed)}; the same "
            "command tries them again",
            file=sys.stderr,
        )
    return 1 if failed else 0


def prepare(cell: Cell, ranks: int) -> Facts:
    """Make the data if it is the demo's, and check data and verification sets, which all share."""
    dataset = build_dataset(cell.config.data, World())
    build_verifier(cell.config, World())
    return Facts(cell.config, dataset.num_classes, len(dataset), ranks)


def report(output: Path, facts: Facts, results: Sequence[CellResult]) -> None:
    """Write everything that the figures go into, and print the tables."""
    text = markdown(facts, results)
    (output / "results.md").write_text(text)
    write_json(output / "results.json", facts, results)
    draw_curves(output / "cosine.png", results)
    write_tensorboard(output / "tensorboard", results)
    print(f"\n{text}\nin {output}: results.md, results.json, cosine.png, tensorboard")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    options = parse(arguments)
    try:
        return run(options)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; the same command continues", file=sys.stderr)
        return 130


def _stop(number: int, frame: Any) -> None:
    """End like Ctrl-C does: the run in progress ends too, and is continued the next time."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _stop)
    sys.exit(main())
