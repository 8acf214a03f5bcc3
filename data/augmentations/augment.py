"""Normalisation and augmentation of whole batches, on the device that trains.

Shape legend: b samples of a batch, n those of them that an operation changes, S image side.

Every random decision is a hash of (seed, epoch, sample index, which decision); see
`data.augmentations.decisions`. So what happens to a sample does not depend on the worker, the rank,
the batch, a resume, or the device. Pixels are computed with operations on one sample at a time, so
even the bits of the result depend on none of these but the device: a CPU and a GPU may round the
last bit of a colour differently.
"""

from collections.abc import Callable, Iterator
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
from data.loading.loader import Batch
from recognition.config import Augment

MID_GREY: Final = 127.5
PROBABILITIES: Final = (
    "flip", "mask", "crop", "colour", "grey", "blur", "low_resolution", "jpeg", "cutout",
)  # fmt: skip

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
    return _scaled(images.to(torch.float32, copy=True))


def _scaled(pixels: Tensor) -> Tensor:
    """Change float32 pixel values from 0 to 255 to [-1, 1], in place."""
    # By a number CUDA would multiply with its reciprocal, which is off by a bit.
    return pixels.sub_(MID_GREY).div_(torch.full((), MID_GREY, device=pixels.device))


class Augmentation(Augment):
    """Random changes of training images; with the defaults only the mirror image.

    Changes are applied in the order in which they would occur in reality: first the scene (mirror
    image, mask on the face), then the camera (crop, colour, blur, resolution), then the file, a
    JPEG. Cutout is last.
    """

    seed: int = 0  # of all decisions

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
        return _scaled(pixels).permute(0, 3, 1, 2)

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
