"""Make photos of the demo's people in larger scenes, to find their faces in: a folder per person.

Beside the folder, a JSON file of its name says who is where, with landmarks.
"""

import argparse
from pathlib import Path

from data.demo.scenes.folder import make_demo_photos
from data.progress import progress_bar
from scripts.common.command import command, exit_with, make_parser

parser = make_parser(__doc__)
add = parser.add_argument
add("folder", type=Path, help="an empty or new folder")
add("--people", type=int, default=20, help="number of people")
add("--photos", type=int, default=10, help="photos of each")
add("--seed", type=int, default=0, help="seed of the people and their photos")
add("--first", type=int, default=0, help="number of the first person")
add("--processes", type=int, help="processes to use (default: one per core)")


@command(parser)
def main(options: argparse.Namespace) -> None:
    """Make the photos."""
    with progress_bar(str(options.folder), "photo") as progress:
        make_demo_photos(
            options.folder,
            people=options.people,
            photos=options.photos,
            seed=options.seed,
            first=options.first,
            processes=options.processes,
            progress=progress,
        )
    print(f"{options.folder} has {options.people * options.photos:,} photos")


if __name__ == "__main__":
    exit_with(main)
