"""Light and colour of a picture.

torchvision's functions take one factor per call, clamp after each change and weight red by 0.2989:
other bits, and with a factor per sample 2 (colour) to 5 times (hue) the time.

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

    `colour` is the probability of changing all three, each by a factor within 1 ± its width; `grey`
    is the probability of removing colour.
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
    pixel_b, luma_b, mean_b = decide.send(torch.stack(factors))[:, :, None, None]

    # By channel: operations on three numbers and their luma would take four times as long.
    channels = pixels.permute(3, 0, 1, 2).contiguous()
    red, green, blue = (channel * weight for channel, weight in zip(channels, _LUMA, strict=True))
    luma = red.add_(green).add_(blue)
    # A sum of whole numbers does not depend on its order; one of fractions does.
    total_b = luma.round().sum(dim=(1, 2), keepdim=True, dtype=torch.float64).to(torch.int64)
    channels *= pixel_b
    channels += luma * luma_b
    channels += mean_b * (total_b / luma[0].numel())
    channels.clamp_(0, 255)
    return pixels.copy_(channels.permute(1, 2, 3, 0))


def hue_turned(pixels: Tensor, decide: Decisions, *, hue: float) -> Tensor:
    """Return `pixels`, float32 [b, S, S, 3] of 0 to 255, with their hue turned in HSV.

    Each sample's hue turns by -hue to hue of a whole turn; value and saturation stay the same.
    """
    turn_b = decide.send(decide.between("hue", -6 * hue, 6 * hue))[:, None, None]
    channels = pixels.permute(3, 0, 1, 2).contiguous()
    red, green, blue = channels
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    # The largest channel, as 0 and 1: choosing it with `torch.where` takes ten times as long.
    is_red = torch.eq(red, value, out=torch.empty_like(value))
    is_green = torch.eq(green, value, out=torch.empty_like(value)).mul_(1 - is_red)
    is_blue = 1 - is_red - is_green
    sixths = (green - blue).mul_(is_red)
    sixths += (blue - red).mul_(is_green)
    sixths += (red - green).mul_(is_blue)
    sixths /= chroma.clamp(min=1e-6)  # grey has no hue: any value will do
    sixths += is_green.mul_(2).add_(is_blue, alpha=4).add_(turn_b)
    sixths -= (sixths / 6).floor_().mul_(6)  # 0 to 6: red, yellow, green, cyan, blue, magenta
    # A channel is `value` within a sixth of a turn of its colour, value - chroma beyond two sixths.
    away = ((sixths - 3).abs_().neg_() + 2, (sixths - 2).abs_() - 1, (sixths - 4).abs_() - 1)
    for channel, fraction in zip(channels, away, strict=True):
        torch.sub(value, fraction.clamp_(0, 1).mul_(chroma), out=channel)
    return pixels.copy_(channels.permute(1, 2, 3, 0))
