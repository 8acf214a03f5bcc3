"""Make a verification set (.bin) from a pair list or a folder of identities, or unpack one.

A pair list is a CSV file of path_a,path_b,same and perhaps fold. From a folder with one sub-folder
per identity, pairs are chosen so that no identity is in two folds. That takes twenty identities; of
fewer, five or two groups of people are made, each of which verification cuts into several folds.
"""

import argparse
import sys
from pathlib import Path

from data.pairs.bin_file import FOLDS
from data.pairs.choose import USUAL_PAIRS, pack_folder
from data.pairs.lists import Written, pack_pair_list, unpack_pair_file
from data.progress import ProgressCallback, progress_bar
from scripts.common.command import command, exit_with, make_parser

parser = make_parser(__doc__)
add = parser.add_argument
add("source", type=Path, help="a .csv or a folder; with --unpack a .bin")
add("output", type=Path, help="the .bin; with --unpack an empty or new folder")
add("--unpack", action="store_true", help="write the images and pairs.csv of a set instead")
add(
    "--folds",
    type=int,
    help="of a folder: 10, 5 or 2, without common people (default: 10, or the most that its people "
    "make); otherwise how many there are (default: 10, as verification cuts a set)",
)
add("--images", type=Path, help="of a list: the folder of its paths (default: its own)")
add("--uneven", action="store_true", help="of a list: allow folds with more of one kind")
add(
    "--pairs",
    type=int,
    help=f"of a folder: how many in all (default: as many as there are, up to {USUAL_PAIRS})",
)
add("--seed", type=int, default=0, help="of a folder: of the choice")


@command(parser)
def main(options: argparse.Namespace) -> None:
    """Make or unpack a set and print what it holds."""
    with progress_bar(str(options.output), "image") as progress:
        written = _make(options, progress)
    for remark in written.remarks:
        print(f"note: {remark}", file=sys.stderr)
    print(
        f"{options.output}: {written.pairs} pairs, {written.same} of one person, "
        f"of {written.images} images"
    )


def _make(options: argparse.Namespace, progress: ProgressCallback) -> Written:
    folds = FOLDS if options.folds is None else options.folds
    if options.unpack:
        return unpack_pair_file(options.source, options.output, folds=folds, progress=progress)
    if options.output.suffix != ".bin":
        raise ValueError(f"{options.output}: expected a name that ends in .bin")
    if options.source.is_dir():
        return pack_folder(
            options.source,
            options.output,
            pairs=options.pairs,
            folds=options.folds,
            seed=options.seed,
            progress=progress,
        )
    return pack_pair_list(
        options.source,
        options.images or options.source.parent,
        options.output,
        folds=folds,
        uneven=options.uneven,
        progress=progress,
    )


if __name__ == "__main__":
    exit_with(main)
