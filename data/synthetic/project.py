"""Finds where the rays of the camera meet a head.

The camera looks along -z with rays that spread a little (perspective). Rays are followed in
uniform steps at half the image's resolution, which is enough for a surface this smooth, and the
hits are interpolated; step and resolution are chosen so that the thinnest part, a nose seen from
the side, cannot be stepped over.

Legend: n images, S image size, h = S // 2; p axes of the head (x, y, z).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from data.synthetic.conditions import View
from data.synthetic.geometry import BOTTOM, TOP

_NEAR, _FAR, _STEPS = 1.30, -0.50, 18
_ANCHOR = (0.33, 0.50)
"""Height and depth of the point of the head that the frame is centred on."""


@dataclass(frozen=True)
class Hits:
    """Where the ray of each pixel meets the head.

    Attributes:
        texture: float32 [n, S, S, 2], texture coordinates (u, v).
        cover: float32 [n, S, S], 1 on the head, 0 beside it, between at its outline.
        rotation: float32 [n, 3, 3], from head axes to camera axes.
        place_x, place_y: float32 [n, S, S], place of the pixel in camera axes.
    """

    texture: Tensor
    cover: Tensor
    rotation: Tensor
    place_x: Tensor
    place_y: Tensor


def rotation_matrix(view: View) -> Tensor:
    """Return rotations from head axes to camera axes, yaw first, float32 [n, 3, 3]."""
    yaw, pitch, roll = (torch.from_numpy(a) for a in (view.yaw, view.pitch, view.roll))
    (sa, ca), (sb, cb), (sc, cc) = ((a.sin(), a.cos()) for a in (yaw, pitch, roll))
    rows = (
        (cc * ca + sc * sb * sa, -sc * cb, cc * sa - sc * sb * ca),
        (sc * ca - cc * sb * sa, cc * cb, sc * sa + cc * sb * ca),
        (-cb * sa, -sb, cb * ca),
    )
    return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)


def trace(radius: Tensor, view: View, size: int) -> Hits:
    """Follow the rays of every pixel to the head.

    Args:
        radius: float32 [1, 1, H, W], see `geometry.radius_map`.
        view: pose and place of the head in each of n images.
        size: S, the width and height of the images in pixels; even.

    Returns:
        The hits of all n images.
    """
    rotation = rotation_matrix(view)
    half = size // 2
    x, y = _places(view, rotation, half, 2.0)
    start, step = _rays(rotation, torch.from_numpy(view.perspective), x, y)
    depth, clearance = _march(radius, start, step)
    upsampled = torch.nn.functional.interpolate(
        torch.stack((depth, clearance), dim=1), size=(size, size), mode="bilinear"
    )
    x, y = _places(view, rotation, size, 1.0)
    start, step = _rays(rotation, torch.from_numpy(view.perspective), x, y)
    texture, _ = texture_coordinates(start + upsampled[:, :1] * step)
    scale = torch.from_numpy(view.scale)[:, None, None]
    cover = (0.5 - upsampled[:, 1] * scale * 0.7).clamp_(0, 1)
    return Hits(texture, cover, rotation, x, y)


def _places(view: View, rotation: Tensor, size: int, stride: float) -> tuple[Tensor, Tensor]:
    """Return the camera coordinates of the pixels' centres, two float32 [n, size, size]."""
    pixels = (torch.arange(size) + 0.5) * stride - 0.5 * stride * size
    scale = torch.from_numpy(view.scale)[:, None]
    anchor = rotation[:, :, 1] * _ANCHOR[0] + rotation[:, :, 2] * _ANCHOR[1]
    x = (pixels - torch.from_numpy(view.shift_x)[:, None]) / scale + anchor[:, :1]
    y = (pixels - torch.from_numpy(view.shift_y)[:, None]) / scale + anchor[:, 1:2]
    n = len(x)
    return x[:, None, :].expand(n, size, size), y[:, :, None].expand(n, size, size)


def _rays(rotation: Tensor, spread: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return rays in head axes, p(depth) = start + depth * step, each float32 [n, 3, h, h]."""
    back = rotation[:, :, :, None, None]  # row i of the rotation is camera axis i in head axes
    start = x[:, None] * back[:, 0] + y[:, None] * back[:, 1]
    return start, back[:, 2] - spread[:, None, None, None] * start


def texture_coordinates(points: Tensor) -> tuple[Tensor, Tensor]:
    """Return (u, v) of points, float32 [n, h, h, 2], and their distance from the vertical axis.

    Args:
        points: float32 [n, 3, h, h] in head axes.
    """
    x, y, z = points.unbind(1)
    distance = (x * x + z * z).sqrt_()
    u = x / (2 * distance * (distance + z) + 1e-8).sqrt_()
    v = y * (2 / (BOTTOM - TOP)) - (BOTTOM + TOP) / (BOTTOM - TOP)
    return torch.stack((u, v), dim=-1), distance


def _march(radius: Tensor, start: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """Return depth of the first hit (or closest approach) and the least clearance before it."""
    radius = radius.expand(len(start), -1, -1, -1)
    stride = (_FAR - _NEAR) / (_STEPS - 1)
    depth = torch.full_like(start[:, 0], _NEAR)
    least = torch.full_like(depth, 1e9)
    outside = torch.ones_like(depth, dtype=torch.bool)
    previous = depth
    for i in range(_STEPS):
        here = _NEAR + i * stride
        texture, distance = texture_coordinates(torch.add(start, step, alpha=here))
        clearance = distance - _lookup(radius, texture)[:, 0]
        if i:
            enters = outside & (clearance < 0)
            inside = previous / (previous - clearance).clamp_min_(1e-6)
            crossing = here - stride * (1 - inside)
            closer = outside & (clearance < least)
            depth = torch.where(enters, crossing, torch.where(closer, here, depth))
        least = torch.where(outside, torch.minimum(least, clearance), least)
        outside = outside & (clearance >= 0)
        previous = clearance
    return depth, least


def _lookup(maps: Tensor, texture: Tensor) -> Tensor:
    return torch.nn.functional.grid_sample(
        maps, texture, mode="bilinear", padding_mode="border", align_corners=True
    )
