"""Merge several datasets of records into one, or rewrite one in another layout."""

import argparse
from pathlib import Path

from data.progress import progress_bar
from data.records.shards import RECORDS
from data.tools.merge import MAPPING, MATCHES, merge_records
from data.tools.record_set import LAYOUTS
from scripts.common.command import command, exit_with, make_parser
from scripts.common.record_options import add_remap, add_sharding, print_written, sharding_of

parser = make_parser(__doc__)
add = parser.add_argument
add("output", type=Path, help="the folder to make")
add("sources", type=Path, nargs="+", help=f"each {RECORDS}")
add(
    "--match",
    choices=MATCHES,
    default="offset",
    help="offset: every identity is another person; name: identities of the same name in "
    "classes.json are the same person",
)
add(
    "--layout",
    choices=LAYOUTS,
    default="identity",
    help="identity: sorted, as the public sets are; plain: in the order of the sources",
)
add_sharding(parser)
add_remap(parser)


@command(parser)
def main(options: argparse.Namespace) -> None:
    """Merge, and print what was written."""
    with progress_bar(str(options.output), "image") as progress:
        counts = merge_records(
            options.sources,
            options.output,
            match=options.match,
            layout=options.layout,
            sharding=sharding_of(options),
            remap_labels=options.remap_labels,
            progress=progress,
        )
    print_written(options.output, counts, f"; sources: {MAPPING}")


if __name__ == "__main__":
    exit_with(main)
