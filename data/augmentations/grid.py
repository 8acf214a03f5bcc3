"""Draws what an augmentation does: a row per operation, a column per sample.

Shape legend: n samples, S image side.
"""

from typing import Any, Final

import numpy as np
import torch
from PIL import Image, ImageDraw

from data.augmentations.augment import MID_GREY, PROBABILITIES, Augmentation
from data.datasets.dataset import FaceDataset
from data.loading.decode import decode_batch
from data.loading.loader import Batch

_MARGIN: Final = 130  # pixels, for the names on the left
_GAP: Final = 4
_NOTHING: Final[dict[str, Any]] = dict.fromkeys(PROBABILITIES, 0.0)


def rows_of(augmentation: Augmentation) -> dict[str, Augmentation]:
    """Return the augmentation of each row of a grid, by the row's name.

    The first row leaves all images as they are, then one row per operation with a probability
    applies it alone and to every image, and the last row is `augmentation` itself.
    """
    used = [name for name in PROBABILITIES if getattr(augmentation, name)]
    each = {name: augmentation.model_copy(update=_NOTHING | {name: 1.0}) for name in used}
    return {
        "as it is": augmentation.model_copy(update=_NOTHING),
        **each,
        "all together": augmentation,
    }


def draw_grid(
    dataset: FaceDataset,
    rows: dict[str, Augmentation],
    *,
    samples: int,
    image_size: int,
    epoch: int = 0,
) -> Image.Image:
    """Draw `rows` for `samples` images, spread evenly over `dataset`, as they are in `epoch`.

    Images are resized to `image_size` as for training. Raises `ValueError` unless `samples` is from
    1 to the size of the dataset, and what `decode_batch` raises.
    """
    if not 1 <= samples <= len(dataset):
        raise ValueError(f"{samples} samples: expected 1 to {len(dataset)}, all of the dataset")
    indices = np.arange(samples, dtype=np.int64) * len(dataset) // samples
    pixels = decode_batch(dataset, indices, image_size)
    samples_n = torch.from_numpy(indices)
    batch = Batch(
        images=torch.from_numpy(pixels).permute(0, 3, 1, 2),
        labels=torch.from_numpy(dataset.classes(indices)),
        indices=samples_n,
        epochs=torch.full_like(samples_n, epoch),
    )
    pitch = image_size + _GAP
    grid = Image.new("RGB", (_MARGIN + samples * pitch, len(rows) * pitch), "white")
    draw = ImageDraw.Draw(grid)
    for row, (name, augmentation) in enumerate(rows.items()):
        draw.text((_GAP, row * pitch + image_size // 2), name, fill="black", anchor="lm")
        levels = (augmentation(batch) * MID_GREY + MID_GREY).round().clamp(0, 255)
        for column, image in enumerate(levels.to(torch.uint8).permute(0, 2, 3, 1).numpy()):
            grid.paste(Image.fromarray(image), (_MARGIN + column * pitch, row * pitch))
    return grid
