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
    """Return `pixels`, float32 [b, S, S, 3] of 0 to 255, in other light or without colour.

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
    gain_b = bright_b * contrast_b
    factors = (gain_b * colour_b, gain_b * (1 - colour_b), bright_b * (1 - contrast_b))
    own_b, luma_b, mean_b = decide.send(torch.stack(factors))[:, :, None, None]

    # By channel: an operation on three numbers and their luma costs four times as much otherwise.
    channels = pixels.permute(3, 0, 1, 2).contiguous()
    red, green, blue = (channel * weight for channel, weight in zip(channels, _LUMA, strict=True))
    luma = red.add_(green).add_(blue)
    # A sum of whole numbers does not depend on its order, one of fractions would.
    total_b = luma.round().sum(dim=(1, 2), keepdim=True, dtype=torch.float64).to(torch.int64)
    channels *= own_b
    channels += luma * luma_b
    channels += mean_b * (total_b / luma[0].numel())
    channels.clamp_(0, 255)
    return pixels.copy_(channels.permute(1, 2, 3, 0))
