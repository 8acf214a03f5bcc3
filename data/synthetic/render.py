"""Renders images of one identity: project, read the texture, cover, shade, photograph.

Legend: n images, S image size; u, v texture coordinates.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from data.synthetic.camera import background, photograph
from data.synthetic.conditions import Conditions, Light, Shot, make_conditions
from data.synthetic.cover import cover_in_frame, cover_on_face, open_mouth
from data.synthetic.expression import displacement
from data.synthetic.geometry import ARC, BOTTOM, TOP
from data.synthetic.identity import make_identity
from data.synthetic.project import Hits, trace
from data.synthetic.texture import FaceMaps, paint

IMAGE_SIZE = 112
"""Width and height of the images in pixels."""


def render_identity(seed: int, identity: int, shots: Sequence[Shot]) -> npt.NDArray[np.uint8]:
    """Return images of one identity, uint8 [n, 112, 112, 3] (RGB).

    Each image is a pure function of (seed, identity, its shot): neither its companions nor the
    process change a byte.

    Args:
        seed: seed of the population.
        identity: number of the identity in it.
        shots: the images to make.
    """
    maps = paint(make_identity(seed, identity))
    return render(maps, make_conditions(seed, identity, shots))


def render(maps: FaceMaps, conditions: Conditions) -> npt.NDArray[np.uint8]:
    """Return one image for each row of `conditions`, uint8 [n, 112, 112, 3] (RGB)."""
    n = len(conditions.age)
    hits = trace(maps.radius, conditions.view, IMAGE_SIZE)
    moved = hits.texture + _sample(displacement(maps.person, conditions), hits.texture).movedim(
        1, 3
    )
    surface = _sample(maps.surface.expand(n, -1, -1, -1), moved)
    albedo, ageing, normal, openness = (
        surface[:, :3],
        surface[:, 3:6],
        surface[:, 6:9],
        surface[:, 9:],
    )
    age = torch.from_numpy(conditions.age)[:, None, None, None]
    albedo = albedo + age * ageing
    x, y = face_coordinates(hits.texture)
    albedo = open_mouth(maps.person, conditions, x, y, albedo)
    albedo = cover_on_face(maps.person, conditions, x, y, albedo)
    colour = _shade(conditions.light, hits, albedo, normal, openness)
    colour = torch.lerp(background(conditions, IMAGE_SIZE), colour, hits.cover[:, None])
    cover_in_frame(conditions, hits, colour)
    return photograph(conditions, colour)


def face_coordinates(texture: Tensor) -> tuple[Tensor, Tensor]:
    """Return arc length and height on the head, two float32 [n, S, S] in head units."""
    u, v = texture.unbind(-1)
    x = u.clamp(-1, 1).asin_() * (2 * ARC)
    return x, v * ((BOTTOM - TOP) / 2) + (BOTTOM + TOP) / 2


def _sample(maps: Tensor, texture: Tensor) -> Tensor:
    return torch.nn.functional.grid_sample(
        maps, texture, mode="bilinear", padding_mode="border", align_corners=True
    )


def _shade(light: Light, hits: Hits, albedo: Tensor, normal: Tensor, openness: Tensor) -> Tensor:
    """Return the light that leaves the surface towards the camera, float32 [n, 3, S, S].

    Diffuse reflection of two directional lights with soft terminators, ambient light that
    reaches cavities less, and a broad highlight of the key light.
    """
    total = torch.from_numpy(light.ambient)[:, :, None, None] * openness
    lamps = (
        (light.key_direction, light.key_colour),
        (light.fill_direction, light.fill_colour),
    )
    for direction, colour in lamps:
        towards = torch.from_numpy(direction)
        in_head = (hits.rotation * towards[:, :, None]).sum(1)  # the rotation's transpose
        facing = (normal * in_head[:, :, None, None]).sum(1, keepdim=True)
        lit = ((facing + 0.15) * (1 / 1.15)).clamp_(min=0) * openness
        total = total + torch.from_numpy(colour)[:, :, None, None] * lit
    half = torch.from_numpy(light.key_direction) + torch.tensor((0.0, 0.0, 1.0))
    half = half / half.square().sum(1, keepdim=True).sqrt()
    in_head = (hits.rotation * half[:, :, None]).sum(1)
    shine = (normal * in_head[:, :, None, None]).sum(1, keepdim=True).clamp_(min=0)
    shine = shine.square_().square_().square_().square_()  # the 16th power: oily rather than wet
    shine = shine * torch.from_numpy(light.gloss)[:, None, None, None]
    return albedo.clamp(0, 1) * total + shine * torch.from_numpy(light.key_colour)[:, :, None, None]
