"""Renders images of one identity: trace, move the face, read the texture, cover, shade, photograph.

Legend: n images, S image size; u, v texture coordinates; K fields of h rows and w columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from data.demo.camera import background, photograph
from data.demo.conditions import Conditions, Light, Shot, make_conditions
from data.demo.cover import cover_in_frame, cover_on_face, open_mouth
from data.demo.deck import Floats
from data.demo.geometry import ARC, BOTTOM, TOP, Grid, bump, ramp
from data.demo.identity import Identity, make_identity
from data.demo.project import read_map, rotation_matrix, trace
from data.demo.texture import FaceMaps, paint

IMAGE_SIZE = 112
"""Width and height of the images in pixels."""

_COARSE = Grid.of(56, 72)


def render_identity(seed: int, identity: int, shots: Sequence[Shot]) -> npt.NDArray[np.uint8]:
    """Return images of one identity, uint8 [n, 112, 112, 3] (RGB).

    Each image is a pure function of (seed, identity, its shot): neither the other images nor the
    process change a byte.
    """
    maps = paint(make_identity(seed, identity))
    return render(maps, make_conditions(seed, identity, shots))


def render(maps: FaceMaps, conditions: Conditions) -> npt.NDArray[np.uint8]:
    """Return one image for each row of `conditions`, uint8 [n, 112, 112, 3] (RGB)."""
    seen = look(maps, conditions, IMAGE_SIZE)
    colour = torch.lerp(background(conditions, IMAGE_SIZE), seen.colour, seen.inside)
    cover_in_frame(maps.person, conditions, rotation_matrix(conditions.view), colour)
    return photograph(conditions, colour)


@dataclass(frozen=True)
class Seen:
    """What a camera sees of one person in n frames, before the surroundings."""

    colour: Tensor  # float32 [n, 3, S, S], linear light
    inside: Tensor  # float32 [n, 1, S, S], 1 where the person is
    x: Tensor  # float32 [n, S, S], arc length on the head, in head units
    y: Tensor  # float32 [n, S, S], height on the head


def look(maps: FaceMaps, conditions: Conditions, size: int) -> Seen:
    """Return what is seen in frames of `size` pixels per side, an even number."""
    n, view = len(conditions.age), conditions.view
    rotation = rotation_matrix(view)
    hits = trace(maps.radius, view, rotation, size // 2, 2.0)
    moved = hits.texture + read_map(_displacement(maps.person, conditions), hits.texture)
    fields = torch.cat((moved, hits.clearance[:, None]), dim=1)
    fields = torch.nn.functional.interpolate(fields, scale_factor=2, mode="bilinear")
    surface = read_map(maps.surface.expand(n, -1, -1, -1), fields[:, :2])
    albedo, ageing, normal = surface.split_with_sizes((3, 3, 3), dim=1)
    albedo = albedo.addcmul_(torch.from_numpy(conditions.age)[:, None, None, None], ageing)
    x = fields[:, 0].clamp(-1, 1).asin_().mul_(2 * ARC)
    y = fields[:, 1] * ((BOTTOM - TOP) / 2) + (BOTTOM + TOP) / 2
    open_mouth(maps.person, conditions, x, y, albedo)
    cover_on_face(maps.person, conditions, x, y, albedo)
    colour = _shade(conditions.light, rotation, albedo.clamp_(0, 1), normal)
    scale = torch.from_numpy(view.scale)[:, None, None]
    inside = (0.5 - 0.7 * scale * fields[:, 2]).clamp_(0, 1)[:, None]
    return Seen(colour, inside, x, y)


def _displacement(person: Identity, conditions: Conditions) -> Tensor:
    """Return how expression and age move the face, float32 [n, 2, h, w] to add to (u, v).

    A weighted sum of smooth fields that the identity's features place.
    """
    e, age = conditions.expression, conditions.age
    jaw = e.jaw + 5 * e.opening * e.speaks
    weights = (e.smile, e.pucker, e.brows, e.frown, e.squint, jaw, (age - 0.4) * 1.6)
    fields = torch.from_numpy(_fields(person))
    total = torch.zeros((len(age), *fields.shape[1:]))
    for weight, field in zip(weights, fields, strict=True):  # each field has its weight
        total += torch.from_numpy(weight)[:, None, None, None] * field
    return total


def _fields(person: Identity) -> Floats:
    """Return the displacement fields, float32 [K, 2, h, w] in units of (u, v)."""
    eyes, mouth = person.eyes, person.mouth
    x, y, side = _COARSE.x, _COARSE.y, np.abs(_COARSE.x)
    sign, zero = np.sign(x), np.zeros((len(y), x.shape[1]), np.float32)
    corner = bump(side, mouth.width, 0.15) * bump(y, mouth.y, 0.13)
    lips = bump(side, 0.0, mouth.width) * bump(y, mouth.y, 0.13)
    brow = bump(side, eyes.x, 0.24) * bump(y, eyes.brow_y, 0.12)
    inner = bump(side, 0.14, 0.12) * bump(y, eyes.brow_y, 0.12)
    eye = bump(side, eyes.x, 0.17) * bump(y, eyes.y, 0.09)
    lower = ramp(y, mouth.y - 0.02, mouth.y + 0.15)
    jowl = bump(side, 0.55, 0.25) * bump(y, 0.70, 0.25)
    sagging = person.ageing.sagging
    cheek = bump(side, 0.40, 0.22) * bump(y, 0.30, 0.18)
    moves = (
        (-0.045 * sign * corner, 0.055 * corner + 0.03 * cheek),
        (0.05 * sign * lips * np.minimum(side / 0.2, 1), zero),
        (zero, 0.045 * brow),
        (0.03 * sign * inner, -0.035 * inner),
        (zero, (y - eyes.y) * 0.55 * eye),
        (zero, -0.10 * lower * bump(side, 0.0, 0.6)),
        (-0.03 * sign * jowl * sagging, -0.05 * (jowl + 0.5 * brow + 0.6 * corner) * sagging),
    )
    slope = np.float32(0.5 / ARC) * np.cos(_COARSE.azimuth / 2)  # du/dx
    rows = 2 / (BOTTOM - TOP)
    return np.stack([np.stack((dx * slope + zero, dy * rows + zero)) for dx, dy in moves]).astype(
        np.float32
    )


def _shade(light: Light, rotation: Tensor, albedo: Tensor, normal: Tensor) -> Tensor:
    """Return the light from the surface to the camera, float32 [n, 3, S, S].

    Diffuse reflection of two directional lights with soft terminators, ambient light (both weaker
    in cavities), and a broad highlight of the key light.
    """
    key, fill = torch.from_numpy(light.key_direction), torch.from_numpy(light.fill_direction)
    half = key + torch.tensor((0.0, 0.0, 1.0))
    half = half / half.square().sum(1, keepdim=True).sqrt()
    openness = normal.square().sum(1, keepdim=True).sqrt_()
    total = torch.from_numpy(light.ambient)[:, :, None, None] * openness
    key_colour = light.key[:, None] * light.key_tint
    fill_colour = light.fill[:, None] * light.fill_tint
    for towards, colour in ((key, key_colour), (fill, fill_colour)):
        lit = _facing(normal, rotation, towards).add_(openness, alpha=0.15).clamp_(min=0)
        total.addcmul_(torch.from_numpy(colour)[:, :, None, None] * (1 / 1.15), lit)
    total.mul_(albedo)
    shine = _facing(normal, rotation, half).clamp_(min=0)
    shine.square_().square_().square_().square_()  # the 16th power: oily rather than wet
    gloss = torch.from_numpy(light.gloss[:, None] * key_colour)
    return total.addcmul_(gloss[:, :, None, None], shine)


def _facing(normal: Tensor, rotation: Tensor, direction: Tensor) -> Tensor:
    """Return the products of normals in head axes and a direction in camera axes [n, 3]."""
    x, y, z = (rotation * direction[:, :, None]).sum(1)[:, :, None, None].unbind(1)
    cosine = normal[:, 0] * x
    return cosine.addcmul_(normal[:, 1], y).addcmul_(normal[:, 2], z)[:, None]
