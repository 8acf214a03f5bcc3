"""Paints an identity once: reflectance, its change with age, normals and cavities.

Legend: H rows (height), W columns (azimuth) of a map.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data.demo.canvas import FINE, Canvas, between, noise
from data.demo.deck import Floats, generator
from data.demo.features import paint_features, paint_skin
from data.demo.geometry import Grid, bump, hair_cover, normal_map, radius_map, ramp
from data.demo.identity import Identity

_COARSE = Grid.of(72, 92)
_TEXTURE_SLOT = 2**32 - 3  # the image number, used by no image, of the generator for the texture


@dataclass(frozen=True)
class FaceMaps:
    """One painted identity.

    `surface` is the reflectance (3 channels), its change from age 0 to age 1 (3), and the normal
    (3), whose length says how open it is to the sky: 1 where it is convex, less in cavities.
    """

    person: Identity
    radius: Tensor  # float32 [1, 1, H', W'], see `geometry.radius_map`
    surface: Tensor  # float32 [1, 9, H, W]


def paint(person: Identity) -> FaceMaps:
    """Return the maps of an identity; a pure function of it."""
    radius = radius_map(person, _COARSE)
    cavity = _blur(radius, 3) - radius
    openness = np.clip(1 - 9.0 * np.maximum(cavity, 0) + 1.5 * np.minimum(cavity, 0), 0.35, 1.05)
    normal = torch.nn.functional.interpolate(
        torch.from_numpy(openness * normal_map(radius, _COARSE))[None],
        size=(len(FINE.y), FINE.x.shape[1]),
        mode="bilinear",
        align_corners=True,
    )
    rng = generator(person.seed, person.number, _TEXTURE_SLOT)
    canvas = Canvas.filled(person.skin.colour)
    paint_skin(canvas, person, rng)
    paint_features(canvas, person, rng)
    cover = hair_cover(person, canvas.grid, 0.0)
    _paint_hair(canvas, person, cover, rng)
    ageing = _age(canvas, person, cover, rng)
    surface = torch.cat(
        (torch.from_numpy(np.stack((canvas.colour, ageing))).flatten(0, 1)[None], normal), 1
    )
    return FaceMaps(person, torch.from_numpy(radius)[None, None], surface)


def _paint_hair(canvas: Canvas, person: Identity, cover: Floats, rng: np.random.Generator) -> None:
    hair, mouth = person.hair, person.mouth
    x, y, side = canvas.grid.x, canvas.grid.y, canvas.side
    strands = 1 + 0.28 * noise(rng, 7, 120) + 0.12 * noise(rng, 24, 160)
    tone = np.array(hair.colour, np.float32)[:, None, None] * np.maximum(strands, 0.2)
    if hair.moustache > 0:
        lip = mouth.y - mouth.upper + 0.25 * np.square(x)
        above = between(y, lip - 0.10, lip + 0.04, 0.04)
        above = above * ramp(side, mouth.width * 1.2, mouth.width)
        canvas.blend(0.85 * hair.moustache * above, tone)
    if hair.goatee > 0:
        chin = ramp(y, mouth.y + 0.10, mouth.y + 0.18) * ramp(side, 0.30, 0.20)
        canvas.blend(0.85 * hair.goatee * chin * ramp(y, 1.16, 1.02), tone)
    if hair.beard > 0:
        cheek = 0.30 + 0.5 * np.clip(0.75 - side, 0, 1) + 0.25 * bump(side, 0.3, 0.2)
        beard = ramp(y - cheek, 0.0, 0.14) * ramp(y, 1.16, 1.02) * ramp(side, 1.40, 1.25)
        lips = bump(x, 0, mouth.width) * bump(y, mouth.y + 0.01, 0.10)
        canvas.blend(0.8 * hair.beard * beard * (1 - lips), tone)
    canvas.blend(0.97 * cover, tone)


def _age(canvas: Canvas, person: Identity, cover: Floats, rng: np.random.Generator) -> Floats:
    """Return the change of reflectance from age 0 to age 1, float32 [3, H, W].

    Hair turns grey and recedes; the skin gets lines and spots, and its tone changes.
    """
    ageing = person.ageing
    old = Canvas(canvas.grid, canvas.colour.copy())
    left = np.minimum(cover, hair_cover(person, canvas.grid, ageing.receding))
    old.blend(cover - left, person.skin.colour)
    grey = 0.4 * canvas.colour.mean(axis=0) + 0.36
    old.blend(0.9 * ageing.greying * left, np.broadcast_to(grey, canvas.colour.shape))
    bare = 1 - cover
    wrinkled = old.part(-0.8, 0.95, -0.9, 0.9)
    wrinkled.tint(_lines(wrinkled, person, rng), (0.45, 0.36, 0.33))
    spots = ramp(noise(rng, 36, 60), 1.3, 2.0) * bare
    old.tint(0.5 * ageing.spots * spots, (0.65, 0.52, 0.45))
    tone = 1 + ageing.pallor
    old.tint(bare, (tone, tone * 0.97, tone * 0.92))
    return old.colour - canvas.colour


def _lines(canvas: Canvas, person: Identity, rng: np.random.Generator) -> Floats:
    """Return the depth of wrinkles, folds, bags and crow's feet, float32 [H, W] in [0, 1]."""
    ageing, eyes, mouth, nose = person.ageing, person.eyes, person.mouth, person.nose
    side, y = canvas.side, canvas.grid.y
    phase = 2 * np.pi * rng.random(dtype=np.float32)
    wobble = 0.012 * np.sin(9 * canvas.grid.x + phase) + 0.10 * np.square(side)
    waves = np.sin((y + wobble) * (2 * np.pi / 0.115))
    forehead = ramp(waves, 0.55, 1.0) * bump(y, -0.42, 0.13) * ramp(side, 0.55, 0.35)
    fold = bump(side - 0.33 * (y - nose.tip_y + 0.05), nose.wings + 0.06, 0.022)
    fold = fold * ramp(y, nose.tip_y - 0.10, nose.tip_y) * ramp(y, mouth.y + 0.12, mouth.y - 0.02)
    off = side - eyes.x
    bags = bump(y - 0.25 * np.square(off), eyes.y + eyes.height + 0.06, 0.022)
    bags = bags * ramp(np.abs(off), 0.17, 0.09)
    feet = ramp(np.sin((y - eyes.y) * 75 + off * 6), 0.4, 1.0)
    feet = feet * bump(off, 0.27, 0.07) * bump(y, eyes.y, 0.10)
    lines = ageing.wrinkles * (forehead + 0.8 * feet + 0.7 * bags) + ageing.folds * fold
    depth: Floats = np.clip(0.75 * lines, 0, 1)
    return depth


def _blur(image_HW: Floats, radius: int) -> Floats:
    """Return a box blur with edges repeated, float32 [H, W]."""
    padded = torch.nn.functional.pad(
        torch.from_numpy(image_HW)[None, None], (radius,) * 4, mode="replicate"
    )
    return torch.nn.functional.avg_pool2d(padded, 2 * radius + 1, stride=1)[0, 0].numpy()
