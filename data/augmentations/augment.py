"""Normalisation and augmentation of whole batches, on the device they are trained on.

Shape legend: b samples, S image side.

Every random decision is a hash of (seed, epoch, sample index, which decision); see
`data.augmentations.decisions`. So what happens to a sample does not depend on the worker, the rank,
the batch it came in, where the run was resumed, or the device. What is computed on pixels keeps to
operations of one sample at a time, so even the bits of the result do not, but for the device: a CPU
and a GPU may round the last bit of a colour otherwise.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

import torch
from torch import Tensor

from data.augmentations.camera import blurred, low_resolution
from data.augmentations.colour import hue_turned, recoloured
from data.augmentations.decisions import Decisions
from data.augmentations.geometry import mirrored, moved
from data.augmentations.jpeg import compressed
from data.augmentations.occlusion import cut_out, masked
from data.augmentations.rows import Change, change_rows
from data.loading.loader import Batch

MID_GREY: Final = 127.5
PROBABILITIES: Final = (
    "flip", "mask", "crop", "colour", "grey", "blur", "low_resolution", "jpeg", "cutout",
)  # fmt: skip


def normalise(images: Tensor) -> Tensor:
    """Return `(x - 127.5) / 127.5` as float32, in [-1, 1], in the memory format of `images`.

    `images` holds pixel values 0 to 255, uint8 or float, of any shape.
    """
    return images.to(torch.float32, copy=True).sub_(MID_GREY).div_(MID_GREY)


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training images; with the defaults only the mirror image.

    What happens to an image happens in the order in which a photograph comes about: the mirror
    image, the mask that is worn, the crop, light and colour, lens, sensor and file; cutout is last.

    Attributes:
        flip: probability of mirroring left and right.
        mask: probability of covering nose, mouth and chin, where the standard template of aligned
            faces has them, with a mask of random shape and colour.
        crop: probability of moving and zooming the picture (bilinear, edges repeated).
        crop_zoom: largest zoom; the visible side is 1 - crop_zoom to 1 + crop_zoom of the image's.
        crop_shift: largest shift in each direction, as a part of the side.
        colour: probability of changing brightness, contrast, saturation and hue together.
        brightness: pixels are multiplied by 1 - brightness to 1 + brightness.
        contrast: distances from the mean luma are multiplied by 1 - contrast to 1 + contrast.
        saturation: distances from the pixel's luma are multiplied by 1 ± saturation.
        hue: hues are turned by up to this part of a turn, one way or the other; at most 0.5.
        grey: probability of removing colour.
        blur: probability of a Gaussian filter.
        blur_sigma: least and largest sigma, in pixels, above 0 and at most 10.
        low_resolution: probability of making the image smaller and as large as before again.
        low_resolution_side: least and largest side in between, as a part of the image's.
        jpeg: probability of JPEG's losses (4:2:0), as libjpeg has them.
        jpeg_quality: least and largest quality, whole numbers from 1 to 100.
        cutout: probability of covering a square with mid-grey (DeVries and Taylor, "Improved
            Regularization of Convolutional Neural Networks with Cutout", arXiv 1708.04552).
        cutout_size: side of that square, as a part of the image's.
        seed: of all decisions.

    Raises `ValueError` for values outside these ranges; probabilities and parts are 0 to 1.
    """

    flip: float = 0.5
    mask: float = 0.0
    crop: float = 0.0
    crop_zoom: float = 0.1
    crop_shift: float = 0.1
    colour: float = 0.0
    brightness: float = 0.3
    contrast: float = 0.3
    saturation: float = 0.3
    hue: float = 0.0
    grey: float = 0.0
    blur: float = 0.0
    blur_sigma: tuple[float, float] = (0.3, 1.5)
    low_resolution: float = 0.0
    low_resolution_side: tuple[float, float] = (0.2, 1.0)
    jpeg: float = 0.0
    jpeg_quality: tuple[int, int] = (20, 95)
    cutout: float = 0.0
    cutout_size: float = 0.4
    seed: int = 0

    def __post_init__(self) -> None:
        for name in PROBABILITIES:
            self._check(name, "a probability", 1)
        for name in ("crop_zoom", "crop_shift", "brightness", "contrast", "saturation"):
            self._check(name, "a part", 1)
        self._check("cutout_size", "a part", 1)
        self._check("hue", "a part of a turn", 0.5)
        self._check_range("blur_sigma", 0, 10)
        self._check_range("low_resolution_side", 0, 1)
        self._check_range("jpeg_quality", 0, 100)
        if not all(isinstance(quality, int) for quality in self.jpeg_quality):
            raise ValueError(f"jpeg_quality is {self.jpeg_quality}: expected whole numbers")

    def _check(self, name: str, kind: str, most: float) -> None:
        value = getattr(self, name)
        if not 0 <= value <= most:
            raise ValueError(f"{name} is {value}: expected {kind} between 0 and {most}")

    def _check_range(self, name: str, above: float, most: float) -> None:
        low, high = getattr(self, name)
        if not above < low <= high <= most:
            raise ValueError(
                f"{name} is {low} to {high}: expected the least and the largest, above {above} and "
                f"at most {most}"
            )

    def __call__(self, batch: Batch) -> Tensor:
        """Return the batch's images changed and normalised, float32 [b, 3, S, S].

        `batch.images` is uint8, and stays as it is; the result is on the same device, in
        channels_last. The device is not waited for, if `batch.indices` and `batch.epochs` are on
        the CPU.
        """
        images = batch.images.permute(0, 2, 3, 1)
        decide = Decisions(self.seed, batch.epochs, batch.indices, images.device)
        pixels = torch.empty(images.shape, device=images.device).copy_(images)
        with torch.autocast(images.device.type, enabled=False):
            for names, change in self._changes():
                probabilities = {name: getattr(self, name) for name in names}
                if any(probabilities.values()):
                    chosen = [decide(name) < value for name, value in probabilities.items()]
                    change_rows(pixels, torch.stack(chosen).any(dim=0), decide, change)
        if self.crop and (self.colour or self.grey):
            # A crop may end a rounding error above white. Without other colours it stays there, so
            # that the pictures of a given seed keep their bits from release to release.
            pixels.clamp_(0, 255)
        return pixels.sub_(MID_GREY).div_(MID_GREY).permute(0, 3, 1, 2)

    def _changes(self) -> Iterator[tuple[tuple[str, ...], Change]]:
        """Yield which probabilities decide whether something happens to an image, and what."""
        recolour = partial(
            recoloured,
            colour=self.colour,
            grey=self.grey,
            brightness=self.brightness,
            contrast=self.contrast,
            saturation=self.saturation,
        )
        yield ("flip",), mirrored
        yield ("mask",), masked
        yield ("crop",), partial(moved, zoom=self.crop_zoom, shift=self.crop_shift)
        yield ("colour", "grey"), recolour
        if self.hue:
            yield ("colour",), partial(hue_turned, hue=self.hue)
        low, high = self.blur_sigma
        yield ("blur",), partial(blurred, low=low, high=high)
        low, high = self.low_resolution_side
        yield ("low_resolution",), partial(low_resolution, low=low, high=high)
        least, most = self.jpeg_quality
        yield ("jpeg",), partial(compressed, low=least, high=most)
        yield ("cutout",), partial(cut_out, size=self.cutout_size, level=MID_GREY)
