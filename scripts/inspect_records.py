"""Say what .rec files hold: images, identities, labels, sizes, and show some of the images."""

import argparse
import json
import sys
from pathlib import Path

from data.progress import progress_bar
from data.records.format import RecordError
from data.records.shards import RECORDS, find_records
from data.tools.inspect import InspectedRecords, draw_grid, inspect_records
from scripts.command import exit_with
from scripts.help_format import HelpFormatter


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument(
        "records", type=Path, nargs="+",
        help=f"of one dataset, each {RECORDS}",
    )  # fmt: skip
    parser.add_argument("--sample", type=int, default=10_000, help="images whose sizes to look at")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.add_argument("--grid", type=Path, help="write a picture of some images to this file")
    parser.add_argument("--rows", type=int, default=8, help="of the grid")
    parser.add_argument("--columns", type=int, default=8, help="of the grid")
    parser.add_argument(
        "--random", action="store_true", help="fill the grid with any images, not a person a row"
    )
    parser.add_argument("--seed", type=int, default=0, help="names the sample and the grid")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Inspect the files and print what they hold; return the exit status."""
    options = parse(arguments)
    try:
        files = [file for named in options.records for file in find_records(named)]
        images = InspectedRecords(files)
        with progress_bar("looking at images", "image") as progress:
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
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        if isinstance(error, RecordError):
            print("scripts/check_records.py goes on past damage, and lists it all", file=sys.stderr)
        return 1
    print(json.dumps(found.to_dict(), indent=2) if options.json else found.text())
    return 0


if __name__ == "__main__":
    exit_with(main)
