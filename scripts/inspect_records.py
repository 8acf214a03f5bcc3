"""Describe .rec files: images, identities, labels and sizes; draw some of the images."""

import argparse
import json
from pathlib import Path

from data.progress import progress_bar
from data.records.format import RecordError
from data.tools.inspect import InspectedRecords, draw_grid, inspect_records
from scripts.common.command import command, exit_with, make_parser
from scripts.common.record_options import add_record_files, record_files

parser = make_parser(__doc__)
add = parser.add_argument
add_record_files(parser)
add("--sample", type=int, default=10_000, help="number of images to read for the sizes")
add("--json", action="store_true", help="print JSON instead of text")
add("--grid", type=Path, help="write a picture of some images to this file")
add("--rows", type=int, default=8, help="rows of the grid")
add("--columns", type=int, default=8, help="columns of the grid")
add("--random", action="store_true", help="draw random images instead of one person per row")
add("--seed", type=int, default=0, help="seed of the sample and the grid")


@command(parser)
def main(options: argparse.Namespace) -> None:
    """Inspect the files and print what they hold."""
    try:
        images = InspectedRecords(record_files(options))
        with progress_bar("reading images", "image") as progress:
            found = inspect_records(
                images, sample=options.sample, seed=options.seed, progress=progress
            )
        if options.grid is not None:
            draw_grid(
                images,
                rows=options.rows,
                columns=options.columns,
                by_identity=not options.random,
                seed=options.seed,
            ).save(options.grid)
    except RecordError as error:
        hint = "scripts/check_records.py goes on past damage, and lists it all"
        raise RecordError(f"{error}\n{hint}") from error
    print(json.dumps(found.to_dict(), indent=2) if options.json else found.text())


if __name__ == "__main__":
    exit_with(main)
