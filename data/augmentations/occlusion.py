"""What hides a part of a picture.

Shape legend: b samples, S image side.
"""

import torch
from torch import Tensor

from data.augmentations.decisions import Decisions


def cut_out(pixels: Tensor, decide: Decisions, *, size: float, level: float) -> Tensor:
    """Return `pixels`, float32 [b, 3, S, S], with a square of `size` of the side in `level`.

    DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout",
    arXiv 1708.04552: its centre is anywhere in the image, so that a part may lie outside.
    """
    side = pixels.shape[3]
    place = torch.arange(side, device=pixels.device) + 0.5
    half = size * side / 2
    near_x = (place - decide.between("cutout x", 0, side)[:, None]).abs() < half
    near_y = (place - decide.between("cutout y", 0, side)[:, None]).abs() < half
    covered = (near_y[:, :, None] & near_x[:, None, :])[:, None]
    return torch.where(covered, level, pixels)
