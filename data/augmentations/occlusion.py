"""Things that hide a part of a picture.

Shape legend: b samples, S image side.
"""

from typing import Final

import torch
from torch import Tensor

from data.augmentations.decisions import Decisions

_CENTRE: Final = ("cutout y", "cutout x")
_MOUTH: Final = 92  # y of the corners of the mouth in the template


def cut_out(pixels: Tensor, decide: Decisions, *, size: float, level: float) -> Tensor:
    """Return `pixels`, float32 [b, S, S, 3], with a square of one level, `size` of the side wide.

    DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout",
    arXiv 1708.04552: its centre is anywhere in the image, so a part of it may be outside.
    torchvision's `erase` takes one square per call.
    """
    side = pixels.shape[1]
    centres = torch.arange(side) + 0.5
    half = size * side / 2
    near = [(centres - decide.between(name, 0, side)[:, None]).abs() < half for name in _CENTRE]
    rows, columns = decide.send(torch.stack(near).float())
    # Products with 0 and 1 are exact, and faster on a CPU than a mask.
    inside = rows[:, :, None] * columns.repeat_interleave(3, dim=1)[:, None]
    pixels.flatten(2).mul_(1 - inside).add_(inside, alpha=level)  # a view
    return pixels


def masked(pixels: Tensor, decide: Decisions) -> Tensor:
    """Return `pixels`, float32 [b, S, S, 3] of 0 to 255, with a surgical mask on each face.

    It covers the nose, mouth and chin of the standard template (112 by 112, eyes at y = 52, tip of
    the nose at 72, corners of the mouth at 92). Its upper edge is highest at the nose and falls
    towards the cheeks; its sides go straight down to the mouth and meet at the chin. Edges are one
    pixel soft; the cloth has one colour, with shaded sides and pleats. Position, shape and colour
    are random, within the lower half of the image.
    """
    side = pixels.shape[1]
    unit = side / 112
    low = {"centre": 54, "top": 57, "drop": 2, "width": 35, "bottom": 102, "pleats": 8}
    high = {"centre": 58, "top": 68, "drop": 14, "width": 45, "bottom": 118, "pleats": 14}
    light = decide.between("mask light", 40, 240)
    tints = [decide.between(f"mask {name}", -40, 40) for name in ("red", "green", "blue")]
    numbers = [decide.between(f"mask {name}", low[name], high[name]) for name in low]
    numbers += [(light + tint).clamp_(0, 255) for tint in tints]
    sent = decide.send(torch.stack(numbers))[:, :, None]
    centre, top, drop, width, bottom, pleats = sent[:6, ..., None]

    position = (torch.arange(side, device=pixels.device) + 0.5) / unit
    first = side // 2
    x, y = position, position[first:, None]
    across = ((x - centre) / width) ** 2  # 1 at the sides
    along = ((y - _MOUTH).clamp_(min=0) / (bottom - _MOUTH)) ** 2  # 1 at the chin
    below_top = y - (top + drop * across)
    inside = (1 - across - along) * (width / 2)  # approximately the distance from the edge
    # A factor `unit` turns template units into pixels of this image.
    cover = (below_top * unit + 0.5).clamp_(0, 1) * (inside * unit + 0.5).clamp_(0, 1)
    fold = (y - top) / pleats
    fold = (fold - fold.floor() - 0.5).abs()
    shade = (1 - 0.35 * across) * (1 - 0.2 * fold)
    channels = pixels[:, first:].permute(3, 0, 1, 2).contiguous()
    for channel, colour in zip(channels, sent[6:, ..., None], strict=True):
        channel += (shade * colour - channel).mul_(cover)
    pixels[:, first:] = channels.clamp_(0, 255).permute(1, 2, 3, 0)
    return pixels
