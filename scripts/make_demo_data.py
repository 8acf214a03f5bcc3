"""Make the demo data: synthetic people to train on, and three sets to verify on."""

import argparse
import sys
from pathlib import Path

from data.demo.generate import make_demo_data
from data.progress import progress_bar
from scripts.command import exit_with
from scripts.help_format import HelpFormatter


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("datasets/demo"))
    parser.add_argument("--identities", type=int, default=2000, help="people to train on")
    parser.add_argument("--images", type=int, default=20_000, help="training images in all")
    parser.add_argument("--people-per-set", type=int, default=300, help="in each verification set")
    parser.add_argument("--seed", type=int, default=0, help="names the population")
    parser.add_argument("--processes", type=int, help="(default: one for each CPU)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Make the data, or say that it is there; return the exit status."""
    options = parse(arguments)
    try:
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
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{options.folder} {'is made' if made else 'was made before and is complete'}")
    return 0


if __name__ == "__main__":
    exit_with(main, "interrupted; the same command goes on where it stopped")
