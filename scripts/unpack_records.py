"""Unpack records into image files: one folder an identity, and a list of all of them."""

import argparse
from pathlib import Path

from data.records.shards import RECORDS
from data.tools.unpack import LIST, unpack_records
from scripts.command import exit_with
from scripts.record_options import add_remap, write_images


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Images keep their bytes; their names are their keys. Packing the list or, where "
        "the records are sorted by identity, the folder gives the same records again.",
    )
    parser.add_argument("records", type=Path, help=RECORDS)
    parser.add_argument("output", type=Path, help="the folder to make")
    add_remap(parser)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Unpack, and say what was done; return the exit status."""
    options = parse(arguments)
    return write_images(
        options.output,
        lambda progress: unpack_records(
            options.records,
            options.output,
            remap_labels=options.remap_labels,
            progress=progress,
        ),
        f"; list: {LIST}",
    )


if __name__ == "__main__":
    exit_with(main)
