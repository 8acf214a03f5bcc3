"""Draw what the augmentation of a config does: a row for each operation, a column for each image.

    python scripts/show_augmentations.py datasets/demo augmentations.png
    python scripts/show_augmentations.py datasets/demo augmentations.png --config configs/demo.yaml

The first line draws every operation, with its default strength; with a config, only those that have
a probability there. Each is drawn on all images, and in the last row all happen together, as often
as the config says, or each to three images in ten.
"""

import argparse
from pathlib import Path
from typing import Any

from data.augmentations.augment import PROBABILITIES, Augmentation
from data.augmentations.grid import draw_grid, rows_of
from data.datasets.dataset import open_dataset
from recognition.config_file import load_config
from scripts.common.command import command, exit_with, make_parser

parser = make_parser(__doc__)
add = parser.add_argument
add("records", type=Path, help="a .rec file, or a folder as for data.train")
add("output", type=Path, help="the image to write, for example grid.png")
add("--config", type=Path, help="a YAML file of configs/")
add("--set", action="append", default=[], metavar="KEY=VALUE", help="override one setting of the "
    "config, e.g. data.augment.blur=0.2; repeatable")  # fmt: skip
add("--samples", type=int, default=8, help="images of a row")
add("--epoch", type=int, default=0, help="another one, other decisions")


@command(parser)
def main(options: argparse.Namespace) -> None:
    """Write the grid."""
    if options.set and options.config is None:
        parser.error("--set changes a setting of a config: state --config too")
    settings: dict[str, Any] = dict.fromkeys(PROBABILITIES, 0.3)
    size = 112
    if options.config is not None:
        config = load_config(options.config, options.set)
        settings = {**config.data.augment.model_dump(), "seed": config.seed}
        size = config.data.image_size
    rows = rows_of(Augmentation(**settings))
    dataset = open_dataset(options.records)
    grid = draw_grid(dataset, rows, samples=options.samples, image_size=size, epoch=options.epoch)
    grid.save(options.output)
    print(f"{options.output}: {', '.join(rows)}")


if __name__ == "__main__":
    exit_with(main)
