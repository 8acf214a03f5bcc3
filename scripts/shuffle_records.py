"""Write records in a random order, so that reading them in sequence is as good as shuffling.

Reads and writes the data twice, in sequence, through buckets that fit in memory; once if all of it
fits. The result does not depend on --memory.
"""

import argparse
from pathlib import Path

from data.progress import progress_bar
from data.records.shards import RECORDS
from data.tools.record_set import parse_bytes
from data.tools.shuffle import shuffle_records
from scripts.common.command import command, exit_with, make_parser
from scripts.common.record_options import add_remap, add_sharding, print_written, sharding_of

parser = make_parser(__doc__)
add = parser.add_argument
add("source", type=Path, help=RECORDS)
add("output", type=Path, help="the folder to make")
add("--seed", type=int, default=0, help="seed of the order")
add("--memory", default="1G", help="memory for images")
add_sharding(parser)
add_remap(parser)


@command(parser)
def main(options: argparse.Namespace) -> None:
    """Shuffle, and print what was written."""
    with progress_bar(str(options.output), "image") as progress:
        counts = shuffle_records(
            options.source,
            options.output,
            seed=options.seed,
            sharding=sharding_of(options),
            memory_bytes=parse_bytes(options.memory),
            remap_labels=options.remap_labels,
            progress=progress,
        )
    print_written(options.output, counts, ", shuffled")


if __name__ == "__main__":
    exit_with(main)
