"""Pictures of what an augmentation does: a row for each operation, a column for each sample.

Shape legend: n samples, S image side.
"""

from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from data.augmentations.augment import PROBABILITIES, Augmentation
from data.datasets.dataset import FaceDataset
from data.loading.decode import decode_batch
from data.loading.loader import Batch

_MARGIN: Final = 130  # pixels, for the names on the left
_GAP: Final = 4
_NOTHING: Final[dict[str, Any]] = dict.fromkeys(PROBABILITIES, 0.0)


def rows_of(augmentation: Augmentation) -> dict[str, Augmentation]:
    """Return the rows of a grid by name, the names of operations being those of `PROBABILITIES`.

    The first leaves all images as they are, one for each operation that has a probability applies
    it alone and to every image, and the last is `augmentation` itself.
    """
    used = [name for name in PROBABILITIES if getattr(augmentation, name)]
    each = {name: replace(augmentation, **(_NOTHING | {name: 1.0})) for name in used}
    return {"as it is": replace(augmentation, **_NOTHING), **each, "all together": augmentation}


def draw_grid(
    dataset: FaceDataset,
    rows: dict[str, Augmentation],
    *,
    samples: int,
    image_size: int,
    epoch: int = 0,
) -> Image.Image:
    """Return `rows` of `samples` images that lie evenly over `dataset`, as they are in `epoch`.

    Images are resized to `image_size` as for training. Raises `ValueError` for no samples or more
    than there are, and as `decode_batch`.
    """
    if not 1 <= samples <= len(dataset):
        raise ValueError(f"{samples} samples: expected 1 to {len(dataset)}, which the dataset has")
    indices = np.arange(samples, dtype=np.int64) * len(dataset) // samples
    pixels = decode_batch(dataset, indices, image_size)
    numbers = torch.from_numpy(indices)
    batch = Batch(
        images=torch.from_numpy(pixels).permute(0, 3, 1, 2),
        labels=torch.from_numpy(dataset.labels[indices]),
        indices=numbers,
        epochs=torch.full_like(numbers, epoch),
    )
    pitch = image_size + _GAP
    grid = Image.new("RGB", (_MARGIN + samples * pitch, len(rows) * pitch), "white")
    draw = ImageDraw.Draw(grid)
    for row, (name, augmentation) in enumerate(rows.items()):
        draw.text((_GAP, row * pitch + image_size // 2), name, fill="black", anchor="lm")
        for column, image in enumerate(_levels(augmentation, batch)):
            grid.paste(Image.fromarray(image), (_MARGIN + column * pitch, row * pitch))
    return grid


def _levels(augmentation: Augmentation, batch: Batch) -> NDArray[np.uint8]:
    """Return the images of `batch` after `augmentation`: uint8 [n, S, S, 3]."""
    levels = (augmentation(batch) * 127.5 + 127.5).round().clamp(0, 255)
    return levels.to(torch.uint8).permute(0, 2, 3, 1).numpy()
