"""Normalisation and augmentation of whole batches, on the device that trains.

Shape legend: b samples of a batch, n those of them that an operation changes, S image side.

Every random decision is a hash of (seed, epoch, sample index, which decision); see
`data.augmentations.decisions`. So what happens to a sample does not depend on the worker, the rank,
the batch, a resume, or the device. Pixels are computed with operations on one sample at a time, so
even the bits of the result depend on none of these but the device: a CPU and a GPU may round the
last bit of a colour differently.
"""

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, Final, Self

import torch
from torch import Tensor

from data.augmentations.camera import blurred, low_resolution
from data.augmentations.colour import hue_turned, recoloured
from data.augmentations.decisions import Decisions
from data.augmentations.geometry import mirrored, moved
from data.augmentations.jpeg import compressed
from data.augmentations.occlusion import cut_out, masked
from data.loading.loader import Batch

MID_GREY: Final = 127.5

Change = Callable[[Tensor, Decisions], Tensor]
"""Maps pixels, float32 [n, S, S, 3] of 0 to 255, contiguous, and the decisions about these samples
to changed pixels of the same kind; it may overwrite its input."""

# On a CPU an operation that stays in the cache is two or three times as fast as one that does not:
# 20 images of side 112 are 3 MB. A GPU gets everything at once.
_BLOCK_PIXELS: Final = 2**18


def normalise(images: Tensor) -> Tensor:
    """Return `(x - 127.5) / 127.5` as float32, in [-1, 1], in the memory format of `images`.

    `images` holds pixel values 0 to 255, uint8 or float, of any shape. torchvision's `normalize`
    gives the same bits in 3 times the time.
    """
    return images.to(torch.float32, copy=True).sub_(MID_GREY).div_(MID_GREY)


@dataclass(frozen=True)
class _Range:
    """The values of a setting: a number from 0 to `most`, or a pair of them above 0, in order."""

    most: float
    pair: bool = False
    whole: bool = False
    probability: bool = False

    def checked(self, name: str, value: Any) -> Any:
        """Return `value` as float, int or a pair of these; `ValueError` if it is out of range."""
        try:
            numbers = [float(number) for number in (value if self.pair else [value])]
        except (TypeError, ValueError):
            numbers = []
        if self.pair:
            fits = len(numbers) == 2 and 0 < numbers[0] <= numbers[1] <= self.most
        else:
            fits = len(numbers) == 1 and 0 <= numbers[0] <= self.most
        if not fits or (self.whole and not all(number.is_integer() for number in numbers)):
            kind = "whole number" if self.whole else "number"
            expected = f"a {kind} from 0 to {self.most:g}"
            if self.pair:
                expected = f"two {kind}s, the smaller first, above 0 and at most {self.most:g}"
            raise ValueError(f"{name} is {value!r}: expected {expected}")
        found = tuple(int(number) if self.whole else number for number in numbers)
        return found if self.pair else found[0]


def _setting(default: Any, most: float = 1.0, **limits: bool) -> Any:
    return field(default=default, metadata={"range": _Range(most, **limits)})


def _probability(default: float = 0.0) -> Any:
    return _setting(default, probability=True)


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training images; with the defaults only the mirror image.

    Changes happen in the order in which a photograph comes about: the mirror image, the mask on the
    face, the crop, light and colour, lens, sensor and file; cutout is last.

    Attributes:
        flip: probability of mirroring left and right.
        mask: probability of covering nose, mouth and chin, where the standard template of aligned
            faces has them, with a mask of random shape and colour.
        crop: probability of moving and zooming the picture (bilinear, edges repeated).
        crop_zoom: largest zoom; the visible side is 1 - crop_zoom to 1 + crop_zoom of the image's.
        crop_shift: largest shift in each direction, as a fraction of the side.
        colour: probability of changing brightness, contrast, saturation and hue together.
        brightness: pixels are multiplied by 1 - brightness to 1 + brightness.
        contrast: distances from the mean luma are multiplied by 1 - contrast to 1 + contrast.
        saturation: distances from the pixel's luma are multiplied by 1 ± saturation.
        hue: hues are turned by up to this fraction of a turn in either direction; at most 0.5.
        grey: probability of removing colour.
        blur: probability of a Gaussian filter.
        blur_sigma: smallest and largest sigma, in pixels, above 0 and at most 10.
        low_resolution: probability of making the image smaller and as large as before again.
        low_resolution_side: smallest and largest side in between, as a fraction of the image's.
        jpeg: probability of JPEG's losses (4:2:0), as libjpeg has them.
        jpeg_quality: smallest and largest quality, whole numbers from 1 to 100.
        cutout: probability of covering a square with mid-grey (DeVries and Taylor, "Improved
            Regularization of Convolutional Neural Networks with Cutout", arXiv 1708.04552).
        cutout_size: side of that square, as a fraction of the image's.
        seed: of all decisions.

    Probabilities and fractions are 0 to 1. Raises `ValueError` for values out of range.
    """

    flip: float = _probability(0.5)
    mask: float = _probability()
    crop: float = _probability()
    crop_zoom: float = _setting(0.1)
    crop_shift: float = _setting(0.1)
    colour: float = _probability()
    brightness: float = _setting(0.3)
    contrast: float = _setting(0.3)
    saturation: float = _setting(0.3)
    hue: float = _setting(0.0, 0.5)
    grey: float = _probability()
    blur: float = _probability()
    blur_sigma: tuple[float, float] = _setting((0.3, 1.5), 10, pair=True)
    low_resolution: float = _probability()
    low_resolution_side: tuple[float, float] = _setting((0.2, 1.0), pair=True)
    jpeg: float = _probability()
    jpeg_quality: tuple[int, int] = _setting((20, 95), 100, pair=True, whole=True)
    cutout: float = _probability()
    cutout_size: float = _setting(0.4)
    seed: int = 0

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], seed: int) -> Self:
        """Return the augmentation of a config's section, whose values are as YAML has them.

        Raises `ValueError` for unknown settings and for values out of range.
        """
        for name in settings:
            if name not in SETTINGS:
                near = difflib.get_close_matches(name, SETTINGS, n=1, cutoff=0.5)
                raise ValueError(
                    f"{name}: no such setting; expected {near[0] if near else ', '.join(SETTINGS)}"
                )
        return cls(**settings, seed=seed)

    def __post_init__(self) -> None:
        for name, limits in SETTINGS.items():
            object.__setattr__(self, name, limits.checked(name, getattr(self, name)))

    def __call__(self, batch: Batch) -> Tensor:
        """Return the batch's images changed and normalised, float32 [b, 3, S, S].

        `batch.images` is uint8 and is not changed; the result is on the same device, in
        channels_last. The host does not wait for the device if `batch.indices` and `batch.epochs`
        are on the CPU.
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
            # A crop may exceed white by a rounding error. Without other colours it keeps that, so
            # that the pictures of a given seed have the same bits in every release.
            pixels.clamp_(0, 255)
        return pixels.sub_(MID_GREY).div_(MID_GREY).permute(0, 3, 1, 2)

    def _changes(self) -> Iterator[tuple[tuple[str, ...], Change]]:
        """Yield each change after the names of the probabilities that it happens with."""
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


SETTINGS: Final[dict[str, _Range]] = {
    setting.name: setting.metadata["range"] for setting in fields(Augmentation) if setting.metadata
}
"""What a config may set, all but the seed, with the range of each."""

PROBABILITIES: Final = tuple(name for name, limits in SETTINGS.items() if limits.probability)


def change_rows(pixels: Tensor, chosen_b: Tensor, decide: Decisions, change: Change) -> None:
    """Apply `change` to the chosen images of `pixels`, float32 [b, S, S, 3], in place.

    Images that are not chosen cost nothing. `chosen_b`, bool [b], is on the CPU, so that the host
    does not wait for the device of the pixels.
    """
    rows = chosen_b.nonzero()[:, 0]
    on_cpu = pixels.device.type == "cpu"
    size = max(1, _BLOCK_PIXELS // pixels.shape[1] ** 2 if on_cpu else len(rows))
    for start in range(0, len(rows), size):
        block = rows[start : start + size]
        decide_block = decide.of(block)
        sent = decide_block.send(block)
        pixels.index_copy_(0, sent, change(pixels.index_select(0, sent), decide_block))
