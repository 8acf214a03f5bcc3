"""What lies behind the head, and what a camera does to the light that reaches it.

Legend: n images, S image size; colours are linear until `photograph` encodes them.
"""

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from data.synthetic.conditions import Conditions


def background(conditions: Conditions, size: int) -> Tensor:
    """Return out-of-focus surroundings, float32 [n, 3, S, S]."""
    images = []
    for seed in conditions.seeds:
        rng = np.random.Generator(np.random.Philox(key=[int(seed), 1]))
        cells = 2 + int(rng.integers(0, 7))
        colours = rng.random((1, 3, cells, cells), dtype=np.float32) ** 2
        mean = rng.random((1, 3, 1, 1), dtype=np.float32) ** 1.5
        mix = rng.random(dtype=np.float32) * 0.8
        images.append(
            torch.nn.functional.interpolate(
                torch.from_numpy(mean + mix * (colours - mean)), size=(size, size), mode="bilinear"
            )
        )
    return torch.cat(images)


def photograph(conditions: Conditions, light: Tensor) -> npt.NDArray[np.uint8]:
    """Return the images that a camera makes, uint8 [n, S, S, 3].

    Args:
        conditions: exposure, tint, shadows, blur, resolution and noise of each image.
        light: linear RGB, float32 [n, 3, S, S].
    """
    camera, size = conditions.camera, light.shape[-1]
    gain = torch.from_numpy(camera.exposure[:, None] * camera.tint)[:, :, None, None]
    light = light * gain * _shadow(conditions, size)
    encoded = (light.clamp_(min=0) + 0.002).sqrt_()
    encoded = encoded / (1 + encoded.square() * 0.25).sqrt_() * 1.1  # highlights roll off
    contrast = torch.from_numpy(camera.contrast)[:, None, None, None]
    encoded = (encoded - 0.5) * contrast + 0.5
    for i in range(len(encoded)):
        encoded[i : i + 1] = _soften(encoded[i : i + 1], camera.blur[i], int(camera.size[i]))
        if camera.grey[i]:
            encoded[i] = encoded[i].mean(0, keepdim=True)
        encoded[i] += float(camera.noise[i]) * _grain(int(conditions.seeds[i]), size)
    images = (encoded * 255).round_().clamp_(0, 255).to(torch.uint8)
    return np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())


def _shadow(conditions: Conditions, size: int) -> Tensor:
    """Return the shadow of something large and out of sight, float32 [n, 1, S, S]."""
    camera = conditions.camera
    place = torch.linspace(-1, 1, size)
    angle = torch.from_numpy(camera.shade_angle)[:, None, None]
    across = place * angle.cos() + place[:, None] * angle.sin()
    offset = torch.from_numpy(camera.shade_offset)[:, None, None]
    depth = torch.from_numpy(camera.shade_depth)[:, None, None]
    return (1 - depth * ((across - offset) * 4 + 0.5).clamp_(0, 1))[:, None]


def _soften(image: Tensor, blur: float, size: int) -> Tensor:
    """Return the image [1, 3, S, S] out of focus by `blur` pixels, as if taken at `size`."""
    full = image.shape[-1]
    if blur > 0:
        t = torch.arange(-4, 5) / float(blur)
        kernel = torch.exp(-0.5 * t * t)
        kernel = kernel / kernel.sum()
        padded = torch.nn.functional.pad(image, (4, 4, 4, 4), mode="replicate").movedim(1, 0)
        across = torch.nn.functional.conv2d(padded, kernel[None, None, None, :])
        image = torch.nn.functional.conv2d(across, kernel[None, None, :, None]).movedim(1, 0)
    if size < full:
        small = torch.nn.functional.interpolate(image, size=(size, size), mode="area")
        image = torch.nn.functional.interpolate(small, size=(full, full), mode="bilinear")
    return image


def _grain(seed: int, size: int) -> Tensor:
    """Return noise of unit variance, float32 [3, S, S], a window of a fixed sheet."""
    sheet = _sheet()
    rng = np.random.Generator(np.random.Philox(key=[seed, 2]))
    top, left, channel = rng.integers(0, (len(sheet) - size, len(sheet) - size, 3))
    window = sheet[top : top + size, left : left + size]
    return torch.stack((window, window.roll(int(channel) + 37, 0), window.roll(53, 1)))


@lru_cache(maxsize=1)
def _sheet(size: int = 320) -> Tensor:
    rng = np.random.Generator(np.random.Philox(key=[0, 3]))
    return torch.from_numpy(rng.standard_normal((size, size), dtype=np.float32))
