"""Normalisation and augmentation of whole batches, on the device they are trained on.

Shape legend: b samples, S image side.

Every random decision is a hash of (seed, epoch, sample index, which decision), computed in int64
arithmetic that is the same on CPUs and GPUs. No generator has a state, so the picture of a sample
does not depend on the worker, the rank, the batch it came in or where the run was resumed. What is
computed on pixels keeps to operations of one sample at a time, so even the bits do not.
"""

from dataclasses import dataclass, fields
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from data.loader import Batch

MID_GREY: Final = 127.5
_LUMA: Final = (0.299, 0.587, 0.114)  # ITU-R BT.601
_PROBABILITIES: Final = ("flip", "crop", "colour", "grey", "cutout")


def normalise(images: Tensor) -> Tensor:
    """Return `(x - 127.5) / 127.5` as float32, in [-1, 1], in the memory format of `images`.

    `images` holds pixel values 0 to 255, uint8 or float, of any shape.
    """
    return images.to(torch.float32, copy=True).sub_(MID_GREY).div_(MID_GREY)


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training images; with the defaults only the mirror image.

    Attributes:
        flip: probability of mirroring left and right.
        crop: probability of moving and zooming the picture (bilinear, edges repeated).
        crop_zoom: largest zoom; the visible side is 1 - crop_zoom to 1 + crop_zoom of the image's.
        crop_shift: largest shift in each direction, as a part of the side.
        colour: probability of changing brightness, contrast and saturation together.
        brightness: pixels are multiplied by 1 - brightness to 1 + brightness.
        contrast: distances from the mean luma are multiplied by 1 - contrast to 1 + contrast.
        saturation: distances from the pixel's luma are multiplied by 1 ± saturation.
        grey: probability of removing colour.
        cutout: probability of covering a square with mid-grey (DeVries and Taylor, "Improved
            Regularization of Convolutional Neural Networks with Cutout", arXiv 1708.04552).
        cutout_size: side of that square, as a part of the image's.
        seed: of all decisions.

    Raises `ValueError` for probabilities and parts outside [0, 1].
    """

    flip: float = 0.5
    crop: float = 0.0
    crop_zoom: float = 0.1
    crop_shift: float = 0.1
    colour: float = 0.0
    brightness: float = 0.3
    contrast: float = 0.3
    saturation: float = 0.3
    grey: float = 0.0
    cutout: float = 0.0
    cutout_size: float = 0.4
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "seed" and not 0 <= value <= 1:
                kind = "probability" if field.name in _PROBABILITIES else "part"
                raise ValueError(f"{field.name} is {value}: expected a {kind} between 0 and 1")

    def __call__(self, batch: Batch) -> Tensor:
        """Return the batch's images changed and normalised, float32 [b, 3, S, S].

        `batch.images` is uint8; everything stays on the batch's device and in channels_last.
        """
        decide = _Decisions(self.seed, batch.epochs, batch.indices)
        images = batch.images
        if self.flip:
            images = torch.where(_per_image(decide("flip") < self.flip), images.flip(3), images)
        if not (self.crop or self.colour or self.grey or self.cutout):
            return normalise(images)
        pixels = images.to(torch.float32)
        if self.crop:
            pixels = torch.where(
                _per_image(decide("crop") < self.crop), self._moved(pixels, decide), pixels
            )
        if self.colour or self.grey:
            pixels = self._recoloured(pixels, decide)
        if self.cutout:
            pixels = torch.where(self._covered(pixels, decide), MID_GREY, pixels)
        return normalise(pixels)

    def _moved(self, pixels: Tensor, decide: "_Decisions") -> Tensor:
        """Return every image shifted and zoomed."""
        count, _, _, side = pixels.shape
        centres = (torch.arange(side, device=pixels.device) * 2 + 1) / side - 1  # as grid_sample
        zoom_b = decide.between("zoom", 1 - self.crop_zoom, 1 + self.crop_zoom)[:, None]
        x_b = decide.between("shift x", -2 * self.crop_shift, 2 * self.crop_shift)[:, None]
        y_b = decide.between("shift y", -2 * self.crop_shift, 2 * self.crop_shift)[:, None]
        x_bS, y_bS = centres * zoom_b + x_b, centres * zoom_b + y_b
        grid = torch.stack(
            (x_bS[:, None, :].expand(-1, side, -1), y_bS[:, :, None].expand(-1, -1, side)), dim=-1
        )
        assert grid.shape == (count, side, side, 2)
        moved = F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
        return moved.contiguous(memory_format=torch.channels_last)

    def _recoloured(self, pixels: Tensor, decide: "_Decisions") -> Tensor:
        """Return the images with other brightness, contrast and saturation, or without colour."""
        chosen_b = decide("colour") < self.colour
        one = torch.ones_like(chosen_b, dtype=torch.float32)

        def factor(name: str, width: float) -> Tensor:
            return torch.where(chosen_b, decide.between(name, 1 - width, 1 + width), one)

        bright_b = factor("brightness", self.brightness)
        contrast_b = factor("contrast", self.contrast)
        colour_b = factor("saturation", self.saturation)
        colour_b = torch.where(decide("grey") < self.grey, 0.0 * one, colour_b)

        red, green, blue = (pixels[:, i : i + 1] * weight for i, weight in enumerate(_LUMA))
        luma = red + green + blue
        # A sum of integers does not depend on its order, a sum of floats would.
        mean_b = luma.round().sum(dim=(1, 2, 3), dtype=torch.int64) / luma[0].numel()
        gain_b = bright_b * contrast_b
        result = pixels * _per_image(gain_b * colour_b)
        result += luma * _per_image(gain_b * (1 - colour_b))
        result += _per_image(bright_b * (1 - contrast_b) * mean_b.to(torch.float32))
        return result.clamp_(0, 255)

    def _covered(self, pixels: Tensor, decide: "_Decisions") -> Tensor:
        """Return which pixels a square covers, bool [b, 1, S, S]."""
        side = pixels.shape[3]
        place = torch.arange(side, device=pixels.device) + 0.5
        half = self.cutout_size * side / 2
        near_x = (place - decide.between("cutout x", 0, side)[:, None]).abs() < half
        near_y = (place - decide.between("cutout y", 0, side)[:, None]).abs() < half
        chosen_b = decide("cutout") < self.cutout
        return (near_y[:, :, None] & near_x[:, None, :] & chosen_b[:, None, None])[:, None]


# Which decision: a number mixed into the hash. Numbers are never given to another name.
_DECISIONS: Final = {
    "flip": 1,
    "crop": 2,
    "zoom": 3,
    "shift x": 4,
    "shift y": 5,
    "colour": 6,
    "brightness": 7,
    "contrast": 8,
    "saturation": 9,
    "grey": 10,
    "cutout": 11,
    "cutout x": 12,
    "cutout y": 13,
}


class _Decisions:
    """Uniform numbers of a batch's samples, one a sample and decision."""

    def __init__(self, seed: int, epochs: Tensor, indices: Tensor) -> None:
        start = torch.full_like(indices, _signed(seed))
        self.samples = _mix(_mix(_mix(start + _GOLDEN) + epochs) + indices)

    def __call__(self, name: str) -> Tensor:
        """Return one number in [0, 1) a sample, float32 [b]."""
        hashed = _mix(self.samples + _signed(_GOLDEN * _DECISIONS[name]))
        return _shift(hashed, 40).to(torch.float32) / 2**24  # 24 bits are exact in float32

    def between(self, name: str, low: float, high: float) -> Tensor:
        """Return one number in [low, high) a sample, float32 [b]."""
        return self(name) * (high - low) + low


def _signed(value: int) -> int:
    """Return the 64 bits of `value` as a signed number, which is what tensors have."""
    return (value + 2**63) % 2**64 - 2**63


_GOLDEN: Final = _signed(0x9E3779B97F4A7C15)
_FIRST: Final = _signed(0xBF58476D1CE4E5B9)
_SECOND: Final = _signed(0x94D049BB133111EB)


def _mix(values: Tensor) -> Tensor:
    """Return SplitMix64's finaliser of int64 values (Steele, Lea and Flood, OOPSLA 2014)."""
    values = (values ^ _shift(values, 30)) * _FIRST
    values = (values ^ _shift(values, 27)) * _SECOND
    return values ^ _shift(values, 31)


def _shift(values: Tensor, bits: int) -> Tensor:
    """Return a logical right shift; that of int64 tensors repeats the sign."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)


def _per_image(values_b: Tensor) -> Tensor:
    """Return [b] as [b, 1, 1, 1]."""
    return values_b[:, None, None, None]
