"""The background, and what a camera does to the light that reaches it.

Legend: n images, S image size; colours are linear until `photograph` encodes them.
"""

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from data.demo.conditions import Conditions

_SPARE = 200  # rows and columns by which the window into the sheet of noise can move


def background(conditions: Conditions, size: int) -> Tensor:
    """Return out-of-focus surroundings, float32 [n, 3, S, S]."""
    cells = torch.from_numpy(conditions.backdrop)
    # Bilinear interpolation as two small matrix products, which are faster than `interpolate`.
    position = torch.linspace(0, cells.shape[-1] - 1, size)[:, None]
    weights = (1 - (position - torch.arange(cells.shape[-1])).abs()).clamp_(min=0)
    return weights @ cells @ weights.T


def photograph(conditions: Conditions, light: Tensor) -> npt.NDArray[np.uint8]:
    """Return the images that a camera makes of `light`, uint8 [n, S, S, 3].

    `light` is linear RGB, float32 [n, 3, S, S], and is overwritten.
    """
    camera, size = conditions.camera, light.shape[-1]
    gain = torch.from_numpy(camera.exposure[:, None] * camera.tint)[:, :, None, None]
    light.mul_(gain).mul_(_shadow(conditions, size)).add_(0.002)
    image = light.div_(torch.add(1.0, light, alpha=0.25)).sqrt_()  # highlights roll off
    contrast = torch.from_numpy(camera.contrast)[:, None, None, None] * 255
    image.mul_(1.1 * contrast).add_(127.5 - 0.5 * contrast)
    for i, one in enumerate(image):
        if camera.fuzzy[i]:
            _defocus(one, float(camera.blur[i]))
        if camera.grey[i]:
            one[:] = one.mean(0)
        top, left = int(camera.noise_row[i] * _SPARE), int(camera.noise_column[i] * _SPARE)
        window = _grain(size + _SPARE)[:, top : top + size, left : left + size]
        one.add_(window, alpha=255 * float(camera.noise[i]))
    rows = image.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    return np.ascontiguousarray(rows.numpy())


def _shadow(conditions: Conditions, size: int) -> Tensor:
    """Return the shadow of something large outside the frame, float32 [n, 1, S, S]."""
    camera = conditions.camera
    position = torch.linspace(-1, 1, size)
    angle = torch.from_numpy(camera.shade_angle)[:, None, None]
    across = position * angle.cos() + position[:, None] * angle.sin()
    offset = torch.from_numpy(camera.shade_offset)[:, None, None]
    depth = torch.from_numpy(camera.shade_depth * camera.shaded)[:, None, None]
    return (1 - depth * ((across - offset) * 4 + 0.5).clamp_(0, 1))[:, None]


def _defocus(image: Tensor, blur: float) -> None:
    """Blur an image [3, S, S] with a Gaussian of `blur` pixels' deviation, in place."""
    reach = 4
    weights = np.exp(-0.5 * np.square(np.arange(reach + 1) / blur))
    weights = weights / (2 * weights.sum() - weights[0])
    size = image.shape[-1]
    for axis in (1, 2):
        edges = (reach, reach, 0, 0) if axis == 2 else (0, 0, reach, reach)
        padded = torch.nn.functional.pad(image, edges, mode="replicate")
        image.mul_(float(weights[0]))
        for offset in range(1, reach + 1):
            for start in (reach - offset, reach + offset):
                image.add_(padded.narrow(axis, start, size), alpha=float(weights[offset]))


@lru_cache(maxsize=1)
def _grain(size: int) -> Tensor:
    """Return a sheet of noise of unit variance, float32 [3, size, size]; the same for all."""
    rng = np.random.Generator(np.random.Philox(key=[0, 0]))
    return torch.from_numpy(rng.standard_normal((3, size, size), dtype=np.float32))
