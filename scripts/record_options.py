"""What the commands for records share: options, and the frame around writing images."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from data.progress import ProgressCallback, progress_bar
from data.tools.record_set import Sharding, parse_bytes


def add_sharding(parser: argparse.ArgumentParser) -> None:
    """Add `--shards` and `--shard-size`."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--shards", type=int, help="cut into so many files train-00000.rec …")
    group.add_argument("--shard-size", metavar="SIZE", help="or into files of at most, say, 2G")


def add_remap(parser: argparse.ArgumentParser) -> None:
    """Add `--remap-labels`."""
    parser.add_argument(
        "--remap-labels", action="store_true", help="number classes afresh where labels have gaps"
    )


def sharding_of(options: argparse.Namespace) -> Sharding:
    """Return what the options of `add_sharding` ask for; raises `ValueError` for a bad size."""
    size = None if options.shard_size is None else parse_bytes(options.shard_size)
    return Sharding(options.shards, size)


def write_images(
    output: Path, write: Callable[[ProgressCallback], tuple[int, int]], remark: str
) -> int:
    """Have images written, with a bar, and print what came of it; return the exit status.

    Args:
        output: the folder to make.
        write: the work; returns the numbers of images and of classes.
        remark: what to say after these.
    """
    try:
        with progress_bar(str(output), "image") as progress:
            images, classes = write(progress)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{output} holds {images} images of {classes} identities{remark}")
    return 0
