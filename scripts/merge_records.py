"""Merge several sets of records into one, or write one set in another layout or number of files."""

import argparse
from pathlib import Path

from data.records.shards import RECORDS
from data.tools.merge import MAPPING, MATCHES, merge_records
from data.tools.record_set import LAYOUTS
from scripts.command import exit_with
from scripts.help_format import HelpFormatter
from scripts.record_options import add_remap, add_sharding, sharding_of, write_images


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("output", type=Path, help="the folder to make")
    parser.add_argument("sources", type=Path, nargs="+", help=f"each {RECORDS}")
    parser.add_argument(
        "--match",
        choices=MATCHES,
        default="offset",
        help="offset: all identities are different people; name: those of one name in "
        "classes.json are one",
    )
    parser.add_argument(
        "--layout",
        choices=LAYOUTS,
        default="identity",
        help="identity: sorted, as the public sets are; plain: in the order of the sources",
    )
    add_sharding(parser)
    add_remap(parser)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Merge, and say what was done; return the exit status."""
    options = parse(arguments)
    return write_images(
        options.output,
        lambda progress: merge_records(
            options.sources,
            options.output,
            match=options.match,
            layout=options.layout,
            sharding=sharding_of(options),
            remap_labels=options.remap_labels,
            progress=progress,
        ),
        f"; sources: {MAPPING}",
    )


if __name__ == "__main__":
    exit_with(main)
