"""Write a set of records in a random order, for reading it from end to end."""

import argparse
from pathlib import Path

from data.records.shards import RECORDS
from data.tools.record_set import parse_bytes
from data.tools.shuffle import shuffle_records
from scripts.command import exit_with
from scripts.help_format import HelpFormatter
from scripts.record_options import add_remap, add_sharding, sharding_of, write_images


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Reads and writes the set twice, each time from end to end, through piles that fit "
        "in memory; once where all of it does. The result does not depend on --memory.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("source", type=Path, help=RECORDS)
    parser.add_argument("output", type=Path, help="the folder to make")
    parser.add_argument("--seed", type=int, default=0, help="names the order")
    parser.add_argument("--memory", default="1G", help="for images")
    add_sharding(parser)
    add_remap(parser)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Shuffle, and say what was done; return the exit status."""
    options = parse(arguments)
    return write_images(
        options.output,
        lambda progress: shuffle_records(
            options.source,
            options.output,
            seed=options.seed,
            sharding=sharding_of(options),
            memory_bytes=parse_bytes(options.memory),
            remap_labels=options.remap_labels,
            progress=progress,
        ),
        ", shuffled",
    )


if __name__ == "__main__":
    exit_with(main)
