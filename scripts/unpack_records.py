"""Unpack records into image files: one folder per identity, and a list of all of them.

Images keep their bytes and are named by their keys. Packing the list gives the same records again,
and so does packing the folder if the records are sorted by identity.
"""

import argparse
from pathlib import Path

from data.progress import progress_bar
from data.records.shards import RECORDS
from data.tools.unpack import LIST, unpack_records
from scripts.common.command import command, exit_with, make_parser
from scripts.common.record_options import add_remap, print_written

parser = make_parser(__doc__)
add = parser.add_argument
add("records", type=Path, help=RECORDS)
add("output", type=Path, help="the folder to make")
add_remap(parser)


@command(parser)
def main(options: argparse.Namespace) -> None:
    """Unpack, and print what was written."""
    with progress_bar(str(options.output), "image") as progress:
        counts = unpack_records(
            options.records,
            options.output,
            remap_labels=options.remap_labels,
            progress=progress,
        )
    print_written(options.output, counts, f"; list: {LIST}")


if __name__ == "__main__":
    exit_with(main)
