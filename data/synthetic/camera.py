"""What lies behind the head, and what a camera does to the light that reaches it.

Legend: n images, S image size; colours are linear until `photograph` encodes them.
"""

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from data.synthetic.conditions import Conditions

_SPARE = 200  # rows and columns by which a window of the sheet of noise can move


def background(conditions: Conditions, size: int) -> Tensor:
    """Return out-of-focus surroundings, float32 [n, 3, S, S]."""
    return torch.nn.functional.interpolate(
        torch.from_numpy(conditions.backdrop.colours), size=(size, size), mode="bilinear"
    )


def photograph(conditions: Conditions, light: Tensor) -> npt.NDArray[np.uint8]:
    """Return the images that a camera makes, uint8 [n, S, S, 3].

    Args:
        conditions: exposure, tint, shadows, blur, resolution and noise of each image.
        light: linear RGB, float32 [n, 3, S, S]; overwritten.
    """
    camera, size = conditions.camera, light.shape[-1]
    gain = torch.from_numpy(camera.exposure[:, None] * camera.tint)[:, :, None, None]
    light.mul_(gain).mul_(_shadow(conditions, size)).add_(0.002)
    image = light.div_(torch.add(1.0, light, alpha=0.25)).sqrt_()  # highlights roll off
    contrast = torch.from_numpy(camera.contrast)[:, None, None, None] * 255
    image.mul_(1.1 * contrast).add_(127.5 - 0.5 * contrast)
    for i, one in enumerate(image):
        _soften(one, float(camera.blur[i]), int(camera.size[i]))
        if camera.grey[i]:
            one[:] = one.mean(0)
        top, left = int(camera.noise_row[i] * _SPARE), int(camera.noise_column[i] * _SPARE)
        window = _grain(size + _SPARE)[:, top : top + size, left : left + size]
        one.add_(window, alpha=255 * float(camera.noise[i]))
    rows = image.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    return np.ascontiguousarray(rows.numpy())


def _shadow(conditions: Conditions, size: int) -> Tensor:
    """Return the shadow of something large and out of sight, float32 [n, 1, S, S]."""
    camera = conditions.camera
    place = torch.linspace(-1, 1, size)
    angle = torch.from_numpy(camera.shade_angle)[:, None, None]
    across = place * angle.cos() + place[:, None] * angle.sin()
    offset = torch.from_numpy(camera.shade_offset)[:, None, None]
    depth = torch.from_numpy(camera.shade_depth)[:, None, None]
    return (1 - depth * ((across - offset) * 4 + 0.5).clamp_(0, 1))[:, None]


def _soften(image: Tensor, blur: float, size: int) -> None:
    """Put an image [3, S, S] out of focus by `blur` pixels, and to the detail of `size` pixels."""
    if blur > 0:
        t = torch.arange(-4, 5) / blur
        kernel = torch.exp(-0.5 * t * t)
        kernel /= kernel.sum()
        padded = torch.nn.functional.pad(image[:, None], (4, 4, 4, 4), mode="replicate")
        across = torch.nn.functional.conv2d(padded, kernel[None, None, None, :])
        image[:] = torch.nn.functional.conv2d(across, kernel[None, None, :, None])[:, 0]
    if size < image.shape[-1]:
        small = torch.nn.functional.interpolate(image[None], size=(size, size), mode="area")
        full = image.shape[-2:]
        image[:] = torch.nn.functional.interpolate(small, size=full, mode="bilinear")[0]


@lru_cache(maxsize=1)
def _grain(size: int) -> Tensor:
    """Return a sheet of noise of unit variance, float32 [3, size, size]; the same for all."""
    rng = np.random.Generator(np.random.Philox(key=[0, 0]))
    return torch.from_numpy(rng.standard_normal((3, size, size), dtype=np.float32))
