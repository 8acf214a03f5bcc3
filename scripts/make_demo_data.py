"""Make the demo data: synthetic people to train on, and three sets to verify on."""

import argparse
from pathlib import Path

from data.demo.generate import make_demo_data
from data.progress import progress_bar
from scripts.common.command import command, exit_with, make_parser

parser = make_parser(__doc__)
add = parser.add_argument
add("folder", type=Path, nargs="?", default=Path("datasets/demo"), help="folder to make")
add("--identities", type=int, default=2000, help="number of people to train on")
add("--images", type=int, default=20_000, help="total number of training images")
add("--people-per-set", type=int, default=300, help="number of people in each verification set")
add("--seed", type=int, default=0, help="seed of the people and their images")
add("--processes", type=int, help="processes to use (default: one per CPU)")


@command(parser)
def main(options: argparse.Namespace) -> None:
    """Make the data, or say that it exists."""
    with progress_bar(str(options.folder), "image") as progress:
        made = make_demo_data(
            options.folder,
            identities=options.identities,
            images=options.images,
            people_per_set=options.people_per_set,
            seed=options.seed,
            processes=options.processes,
            progress=progress,
        )
    print(f"{options.folder} {'is made' if made else 'was made before and is complete'}")


if __name__ == "__main__":
    exit_with(main, "interrupted; the same command starts anew")
