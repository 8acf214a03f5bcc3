"""What hides a part of a picture.

Shape legend: b samples, S image side.
"""

import torch
from torch import Tensor

from data.augmentations.decisions import Decisions


def cut_out(pixels: Tensor, decide: Decisions, *, size: float, level: float) -> Tensor:
    """Return `pixels`, float32 [b, S, S, 3], with a square of `size` of the side in `level`.

    DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout",
    arXiv 1708.04552: its centre is anywhere in the image, so that a part may lie outside.
    """
    side = pixels.shape[1]
    place = torch.arange(side) + 0.5
    half = size * side / 2
    edges = []
    for name in ("cutout y", "cutout x"):
        near = ((place - decide.between(name, 0, side)[:, None]).abs() < half).int()
        first = near.argmax(dim=1)
        edges += [first, first + near.sum(dim=1)]
    for image, top, bottom, left, right in zip(pixels, *(e.tolist() for e in edges), strict=True):
        image[top:bottom, left:right] = level
    return pixels
