"""Finds where the rays of the camera meet a head.

The camera looks along -z with rays that spread a little (perspective). Rays advance in uniform
steps, at half the image's resolution: the surface is smooth, so hits can be interpolated. The step
is too short to miss the thinnest part, a nose seen from the side.

Legend: n images, h rays in each row and column.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from data.demo.conditions import View
from data.demo.geometry import BOTTOM, TOP

_NEAR, _FAR, _STEPS = 1.25, -0.45, 15
_ANCHOR_Y, _ANCHOR_Z = 0.33, 0.50  # the point of the head that the frame is centred on


@dataclass(frozen=True)
class Hits:
    """Where each ray meets the head."""

    # float32 [n, 2, h, h], (u, v) of the hit, or of the point closest to the head where it misses
    texture: Tensor
    # float32 [n, h, h], smallest distance of the ray from the surface, in head units; well below 0
    # where the ray goes through the head
    clearance: Tensor


def rotation_matrix(view: View) -> Tensor:
    """Return the rotations from head axes to camera axes, yaw first, float32 [n, 3, 3]."""
    yaw, pitch, roll = (torch.from_numpy(a) for a in (view.yaw, view.pitch, view.roll))
    (sa, ca), (sb, cb), (sc, cc) = ((a.sin(), a.cos()) for a in (yaw, pitch, roll))
    rows = (
        (cc * ca + sc * sb * sa, -sc * cb, cc * sa - sc * sb * ca),
        (sc * ca - cc * sb * sa, cc * cb, sc * sa + cc * sb * ca),
        (-cb * sa, -sb, cb * ca),
    )
    return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)


def pixel_coordinates(
    view: View, rotation: Tensor, size: int, stride: float
) -> tuple[Tensor, Tensor]:
    """Return the camera coordinates of pixel centres, x as [n, 1, size], y as [n, size, 1].

    There are `size` of them per row and column, each `stride` pixels of the image wide. `rotation`,
    float32 [n, 3, 3], is that of `rotation_matrix`.
    """
    pixels = (torch.arange(size) + 0.5 - 0.5 * size) * stride
    scale = torch.from_numpy(view.scale)[:, None]
    anchor = rotation[:, :, 1] * _ANCHOR_Y + rotation[:, :, 2] * _ANCHOR_Z
    x = (pixels - torch.from_numpy(view.shift_x)[:, None]) / scale + anchor[:, :1]
    y = (pixels - torch.from_numpy(view.shift_y)[:, None]) / scale + anchor[:, 1:2]
    return x[:, None, :], y[:, :, None]


def trace(radius: Tensor, view: View, rotation: Tensor, size: int, stride: float) -> Hits:
    """Return where rays, `stride` pixels apart, meet the head.

    `radius`, float32 [1, 1, H, W], is that of `geometry.radius_map`; `rotation`, float32 [n, 3, 3],
    that of `rotation_matrix`.
    """
    start, step = _rays(view, rotation, size, stride)
    radius = radius.expand(len(start), -1, -1, -1)
    travel = (_FAR - _NEAR) / (_STEPS - 1)
    point = start + _NEAR * step
    previous = _clearance(radius, point)
    outside = torch.ones_like(previous)  # 1 until the ray enters the head
    least, nearest = previous.clone(), torch.full_like(previous, _NEAR)
    depth = torch.full_like(previous, _NEAR)
    for i in range(1, _STEPS):
        here = _NEAR + i * travel
        clearance = _clearance(radius, torch.add(start, step, alpha=here, out=point))
        # Arithmetic with 0 and 1 takes half the time of torch.where.
        fraction = previous / (previous - clearance.clamp(max=0)).clamp_(min=1e-6)
        depth.addcmul_(outside, fraction.clamp_(max=1), value=travel)
        closer = (least - clearance).sign_().clamp_(min=0)
        nearest.lerp_(torch.full_like(nearest, here), closer)
        least.lerp_(clearance, closer)
        outside.mul_(clearance.sign().clamp_(min=0))
        previous = clearance.clamp_(min=1e-6)
    depth.lerp_(nearest, outside)
    return Hits(_texture(torch.addcmul(start, step, depth[:, None]))[0], least)


def _rays(view: View, rotation: Tensor, size: int, stride: float) -> tuple[Tensor, Tensor]:
    """Return rays start + depth * step, each float32 [n, 3, h, h], as (x, v, z) of the head."""
    x, y = pixel_coordinates(view, rotation, size, stride)
    axes = rotation[:, :, :, None, None]  # row i of the rotation is camera axis i in head axes
    start = x[:, None] * axes[:, 0] + y[:, None] * axes[:, 1]
    step = axes[:, 2] - torch.from_numpy(view.perspective)[:, None, None, None] * start
    for rays, offset in ((start, -(BOTTOM + TOP) / (BOTTOM - TOP)), (step, 0.0)):
        rays[:, 1].mul_(2 / (BOTTOM - TOP)).add_(offset)
    return start, step


def _texture(point: Tensor) -> tuple[Tensor, Tensor]:
    """Return (u, v) of points (x, v, z), [n, 3, h, h], and their distance from the head's axis."""
    x, v, z = point.unbind(1)
    distance = torch.addcmul(z * z, x, x).sqrt_()
    # u = sin(azimuth / 2) = x / sqrt(2 distance (distance + z))
    scale = (distance + z).mul_(distance).mul_(2).add_(1e-7).rsqrt_()
    return torch.stack((scale.mul_(x), v), dim=1), distance


def _clearance(radius: Tensor, point: Tensor) -> Tensor:
    """Return how far points are outside the head, measured from its axis, float32 [n, h, h]."""
    texture, distance = _texture(point)
    return distance.sub_(read_map(radius, texture)[:, 0])


def read_map(maps: Tensor, texture: Tensor) -> Tensor:
    """Return maps [n, C, H, W] read at texture coordinates [n, 2, h, w], float32 [n, C, h, w]."""
    return torch.nn.functional.grid_sample(
        maps, texture.movedim(1, 3), mode="bilinear", padding_mode="border", align_corners=True
    )
