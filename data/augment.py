"""Normalisation and augmentation of whole batches, on the device they are trained on.

Shape legend: b samples, S image side.

Every random decision is a hash of (seed, epoch, sample index, which decision); see
`data.augmentations.decisions`. So the picture of a sample does not depend on the worker, the rank,
the batch it came in or where the run was resumed. What is computed on pixels keeps to operations of
one sample at a time, so even the bits do not.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import partial
from typing import Final

import torch
from torch import Tensor

from data.augmentations.colour import recoloured
from data.augmentations.decisions import Decisions
from data.augmentations.geometry import mirrored, moved
from data.augmentations.occlusion import cut_out
from data.augmentations.rows import Change, change_rows
from data.loader import Batch

MID_GREY: Final = 127.5
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

        `batch.images` is uint8, and stays as it is; the result is on the same device, in
        channels_last. The device is not waited for, if `batch.indices` and `batch.epochs` are on
        the CPU.
        """
        images = batch.images.permute(0, 2, 3, 1)
        decide = Decisions(self.seed, batch.epochs, batch.indices, images.device)
        pixels = torch.empty(images.shape, device=images.device).copy_(images)
        for probability_of, change in self._changes():
            chosen_b = torch.zeros(len(batch), dtype=torch.bool)
            for name in probability_of:
                chosen_b |= decide(name) < getattr(self, name)
            with torch.autocast(images.device.type, enabled=False):
                change_rows(pixels, chosen_b, decide, change)
        if self.crop and (self.colour or self.grey):
            # A crop may end a rounding error above white. Without other colours it stays there, so
            # that the pictures of a given seed keep their bits from release to release.
            pixels.clamp_(0, 255)
        return pixels.sub_(MID_GREY).div_(MID_GREY).permute(0, 3, 1, 2)

    def _changes(self) -> Iterator[tuple[tuple[str, ...], Change]]:
        """Yield what may happen to an image, in this order, and which probabilities decide it."""
        if self.flip:
            yield ("flip",), mirrored
        if self.crop:
            yield ("crop",), partial(moved, zoom=self.crop_zoom, shift=self.crop_shift)
        if self.colour or self.grey:
            yield (
                ("colour", "grey"),
                partial(
                    recoloured,
                    colour=self.colour,
                    grey=self.grey,
                    brightness=self.brightness,
                    contrast=self.contrast,
                    saturation=self.saturation,
                ),
            )
        if self.cutout:
            yield ("cutout",), partial(cut_out, size=self.cutout_size, level=MID_GREY)
