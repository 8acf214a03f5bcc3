"""Draw the effect of augmentation: a row for each operation, a column for each image.

    python scripts/show_augmentations.py datasets/demo augmentations.png
    python scripts/show_augmentations.py datasets/demo augmentations.png --config configs/demo.yaml

The first command draws every operation at its default strength, the second only those to which the
config gives a probability. Each row applies one operation to all images. The last row applies all
together, with the probabilities of the config, or 0.3 each without one.
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
add("records", type=Path, help="a .rec file, or a folder, as in data.train")
add("output", type=Path, help="the image to write, for example grid.png")
add("--config", type=Path, help="a YAML file of configs/")
add("--set", action="append", default=[], metavar="KEY=VALUE", help="override one setting of the "
    "config, e.g. data.augment.blur=0.2; repeatable")  # fmt: skip
add("--samples", type=int, default=8, help="images per row")
add("--epoch", type=int, default=0, help="epoch to draw: random choices differ from epoch to epoch")


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
