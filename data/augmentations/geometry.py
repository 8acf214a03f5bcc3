"""Where the pixels of a picture come from.

Shape legend: b samples, S image side.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from data.augmentations.decisions import Decisions


def moved(pixels: Tensor, decide: Decisions, *, zoom: float, shift: float) -> Tensor:
    """Return every image of `pixels`, float32 [b, 3, S, S], shifted and zoomed.

    Bilinear, with the edges repeated. The visible side is 1 - zoom to 1 + zoom of the image's, the
    shift in each direction up to `shift` of it.
    """
    count, _, _, side = pixels.shape
    centres = (torch.arange(side, device=pixels.device) * 2 + 1) / side - 1  # as grid_sample
    zoom_b = decide.between("zoom", 1 - zoom, 1 + zoom)[:, None]
    x_b = decide.between("shift x", -2 * shift, 2 * shift)[:, None]
    y_b = decide.between("shift y", -2 * shift, 2 * shift)[:, None]
    x_bS, y_bS = centres * zoom_b + x_b, centres * zoom_b + y_b
    grid = torch.stack(
        (x_bS[:, None, :].expand(-1, side, -1), y_bS[:, :, None].expand(-1, -1, side)), dim=-1
    )
    assert grid.shape == (count, side, side, 2)
    moved = F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    return moved.contiguous(memory_format=torch.channels_last)
