"""Light and colour of a picture.

Shape legend: b samples, S image side.
"""

from typing import Final

import torch
from torch import Tensor

from data.augmentations.decisions import Decisions

_LUMA: Final = (0.299, 0.587, 0.114)  # ITU-R BT.601


def recoloured(
    pixels: Tensor,
    decide: Decisions,
    *,
    colour: float,
    grey: float,
    brightness: float,
    contrast: float,
    saturation: float,
) -> Tensor:
    """Return `pixels`, float32 [b, 3, S, S] of 0 to 255, in other light or without colour.

    `colour` is the probability of the three changes together, which multiply by factors of
    1 ± their width; `grey` that of removing colour.
    """
    chosen_b = decide("colour") < colour
    one = torch.ones_like(chosen_b, dtype=torch.float32)

    def factor(name: str, width: float) -> Tensor:
        return torch.where(chosen_b, decide.between(name, 1 - width, 1 + width), one)

    bright_b = factor("brightness", brightness)
    contrast_b = factor("contrast", contrast)
    colour_b = factor("saturation", saturation)
    colour_b = torch.where(decide("grey") < grey, 0.0 * one, colour_b)

    red, green, blue = (pixels[:, i : i + 1] * weight for i, weight in enumerate(_LUMA))
    luma = red + green + blue
    # A sum of integers does not depend on its order, a sum of floats would.
    mean_b = luma.round().sum(dim=(1, 2, 3), dtype=torch.int64) / luma[0].numel()
    gain_b = bright_b * contrast_b
    result = pixels * _per_image(gain_b * colour_b)
    result += luma * _per_image(gain_b * (1 - colour_b))
    result += _per_image(bright_b * (1 - contrast_b) * mean_b.to(torch.float32))
    return result.clamp_(0, 255)


def _per_image(values_b: Tensor) -> Tensor:
    """Return [b] as [b, 1, 1, 1]."""
    return values_b[:, None, None, None]
