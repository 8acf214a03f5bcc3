"""Say what .rec files hold: images, identities, labels, sizes, and show some of the images."""

import argparse
import json
from pathlib import Path

from data.progress import progress_bar
from data.records.format import RecordError
from data.tools.inspect import InspectedRecords, draw_grid, inspect_records
from scripts.common.command import command, exit_with, make_parser
from scripts.common.record_options import add_record_files, record_files


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    add_record_files(parser)
    parser.add_argument("--sample", type=int, default=10_000, help="images to read for their sizes")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.add_argument("--grid", type=Path, help="write a picture of some images to this file")
    parser.add_argument("--rows", type=int, default=8, help="of the grid")
    parser.add_argument("--columns", type=int, default=8, help="of the grid")
    parser.add_argument(
        "--random", action="store_true", help="fill the grid with any images, not a person per row"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the sample and the grid")
    return parser.parse_args(arguments)


@command(parse)
def main(options: argparse.Namespace) -> int:
    """Inspect the files and print what they hold; return the exit status."""
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
    return 0


if __name__ == "__main__":
    exit_with(main)
