"""Make a verification set (.bin) from a pair list or a folder of identities, or unpack one.

A pair list is a CSV file of path_a,path_b,same and perhaps fold. From a folder with one sub-folder
per identity, pairs are chosen so that no identity is in two folds. This needs twenty identities.
Fewer are divided into five or two groups, each of which verification splits into several folds.
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
add("source", type=Path, help="a pair list (.csv) or a folder; with --unpack a .bin file")
add("output", type=Path, help="the .bin file to make; with --unpack an empty or new folder")
add("--unpack", action="store_true", help="write the images of a .bin file and pairs.csv")
add(
    "--folds",
    type=int,
    help="number of folds: of a list (default: 10, as in verification), or of a folder, 10, 5 or 2 "
    "(default: 10, or as many as its people allow)",
)
add(
    "--images", type=Path, help="folder that the paths of a list are relative to (default: its own)"
)
add("--uneven", action="store_true", help="allow a list whose folds have more pairs of one kind")
add(
    "--pairs",
    type=int,
    help=f"number of pairs to make of a folder (default: all, up to {USUAL_PAIRS})",
)
add("--seed", type=int, default=0, help="seed of the choice of pairs")


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
