"""Paints one identity, once: reflectance, what ageing does to it, normals and cavities.

Legend: H rows (height), W columns (azimuth) of a map; 3 colour channels (linear RGB).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data.synthetic.deck import Floats, generator
from data.synthetic.geometry import Grid, bump, hair_cover, normal_map, radius_map, ramp
from data.synthetic.identity import Identity

_FINE = Grid.of(168, 216)
_COARSE = Grid.of(84, 108)
_TEXTURE_SLOT = 2**32 - 3
"""Image number whose generator seeds an identity's fine texture; no real image has it."""

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class FaceMaps:
    """One painted identity.

    Attributes:
        person: who it is.
        radius: float32 [1, 1, H', W'], see `geometry.radius_map`.
        surface: float32 [1, 10, H, W]: reflectance (3), its change from age 0 to age 1 (3),
            unit normal (3), openness to the sky (1; 1 on a convex surface, less in cavities).
    """

    person: Identity
    radius: Tensor
    surface: Tensor


def paint(person: Identity) -> FaceMaps:
    """Return the maps of an identity; a pure function of it."""
    radius = radius_map(person, _COARSE)
    cavity = _blur(radius, 4) - radius
    openness = np.clip(1 - 9.0 * np.maximum(cavity, 0) + 1.5 * np.minimum(cavity, 0), 0.35, 1.05)
    coarse = torch.from_numpy(np.concatenate((normal_map(radius, _COARSE), openness[None])))
    fine = torch.nn.functional.interpolate(
        coarse[None], size=_FINE_SHAPE, mode="bilinear", align_corners=True
    )
    young = _Canvas(person)
    _paint_skin(young)
    _paint_features(young)
    _paint_hair(young, receding=0.0)
    ageing = _age(young)
    surface = torch.cat((torch.from_numpy(np.concatenate((young.colour, ageing)))[None], fine), 1)
    return FaceMaps(person, torch.from_numpy(radius)[None, None], surface.float().contiguous())


_FINE_SHAPE = (_FINE.y.shape[0], _FINE.x.shape[1])


class _Canvas:
    """A reflectance map in the making, with the generator of the fine texture."""

    def __init__(self, person: Identity) -> None:
        self.person = person
        self.grid = _FINE
        self.rng = generator(person.seed, person.number, _TEXTURE_SLOT)
        self.colour: Floats = np.empty((3, *_FINE_SHAPE), np.float32)
        self.colour[:] = np.array(person.skin.colour, np.float32)[:, None, None]

    def blend(self, cover: Floats, colour: Colour | Floats) -> None:
        """Lay `colour` over the canvas where `cover` (broadcast to [H, W], in [0, 1]) says."""
        target = np.asarray(colour, np.float32)
        if target.ndim == 1:
            target = target[:, None, None]
        self.colour += cover * (target - self.colour)

    def tint(self, cover: Floats, factor: Colour) -> None:
        """Multiply the canvas by `factor` where `cover` says."""
        self.colour *= 1 + cover * (np.array(factor, np.float32)[:, None, None] - 1)

    def noise(self, rows: int, columns: int) -> Floats:
        """Return smooth noise of about unit variance, float32 [H, W], this many cells."""
        cells = self.rng.standard_normal((1, 1, rows, columns), dtype=np.float32)
        smooth = torch.nn.functional.interpolate(
            torch.from_numpy(cells), size=_FINE_SHAPE, mode="bilinear", align_corners=True
        )
        return smooth[0, 0].numpy()


def _paint_skin(canvas: _Canvas) -> None:
    person, x, y = canvas.person, canvas.grid.x, canvas.grid.y
    skin, side = person.skin, np.abs(canvas.grid.x)
    mottle = 0.05 * canvas.noise(14, 28) + 0.04 * canvas.noise(42, 72)
    canvas.colour *= 1 + skin.mottling * mottle
    flush = bump(side, 0.46, 0.20) * bump(y, 0.30, 0.18) + 0.6 * bump(side, 0, 0.13) * bump(
        y, person.nose.tip_y - 0.03, 0.10
    )
    canvas.tint(0.5 * skin.blush * flush, (1.05, 0.62, 0.62))
    canvas.tint(
        0.5 * bump(side, person.eyes.x, 0.16) * bump(y, person.eyes.y, 0.12), (0.8, 0.7, 0.72)
    )
    if skin.freckles > 0:
        where = bump(side, 0.28, 0.34) * bump(y, 0.22, 0.30)
        spots = ramp(canvas.noise(100, 130), 1.0, 1.7) * where
        canvas.tint(np.minimum(1.6 * skin.freckles * spots, 1), (0.62, 0.45, 0.38))
    for mark_x, mark_y, radius, depth in skin.marks:
        distance = np.square(x - mark_x) + np.square(y - mark_y)
        canvas.tint(depth * ramp(np.sqrt(distance), radius * 1.4, radius * 0.6), (0.28, 0.20, 0.18))


def _paint_features(canvas: _Canvas) -> None:
    person, y = canvas.person, canvas.grid.y
    side = np.abs(canvas.grid.x)
    _paint_mouth(canvas)
    nostril = bump(side, person.nose.wings * 0.55, 0.045) * bump(
        y, person.nose.tip_y + 0.055, 0.028
    )
    canvas.tint(np.minimum(1.3 * nostril, 1), (0.22, 0.15, 0.14))
    crease = bump(side, person.nose.wings + 0.035, 0.025) * bump(y, person.nose.tip_y, 0.07)
    canvas.tint(0.5 * crease, (0.6, 0.5, 0.5))
    _paint_eyes(canvas)
    eyes, hair = person.eyes, person.hair
    t = (side - eyes.x) / eyes.brow_width
    line = eyes.brow_y + eyes.brow_slope * (side - eyes.x) + eyes.brow_arch * np.square(t)
    thick = eyes.brow_thickness * (1.1 - 0.5 * np.clip(t, 0, 1))
    brow = ramp(np.abs(y - line), thick * 1.25, thick * 0.55) * ramp(np.abs(t), 1.05, 0.85)
    hairs = 1 + 0.15 * canvas.noise(40, 110)
    colour = np.array(hair.colour) * 0.6 + 0.01
    canvas.blend(np.clip(eyes.brow_strength * brow * hairs, 0, 1), colour.astype(np.float32))


def _paint_mouth(canvas: _Canvas) -> None:
    mouth, x, y = canvas.person.mouth, canvas.grid.x, canvas.grid.y
    t = np.abs(x) / mouth.width
    inside = np.clip(1 - t * t, 0, 1)
    line = mouth.y - mouth.curve * t * t
    bow = 1 - mouth.cupid * bump(x, 0.0, 0.045)
    upper = line - mouth.upper * inside**0.7 * bow
    lower = line + mouth.lower * np.sqrt(inside)
    edge = ramp(t, 1.03, 0.93)
    lips = _between(y, upper, lower, 0.014) * edge
    canvas.blend(0.9 * lips, mouth.colour)
    canvas.tint(0.35 * _between(y, upper, line, 0.01) * edge, (0.7, 0.65, 0.65))
    canvas.tint(0.85 * ramp(np.abs(y - line), 0.022, 0.006) * ramp(t, 1.1, 0.9), (0.25, 0.16, 0.16))


def _between(y: Floats, low: Floats, high: Floats, soft: float) -> Floats:
    """Return 1 where low < y < high, with edges `soft` wide on each side."""
    scale = np.float32(0.5 / soft)
    return np.clip((y - low) * scale + 0.5, 0, 1) * np.clip((high - y) * scale + 0.5, 0, 1)


def _paint_eyes(canvas: _Canvas) -> None:
    eyes, x, y = canvas.person.eyes, canvas.grid.x, canvas.grid.y
    side = np.abs(x)
    across = (side - eyes.x) / eyes.width
    middle = eyes.y - eyes.slant * (side - eyes.x)
    arch = np.clip(1 - across * across, 0, 1)
    upper = middle - eyes.height * arch**0.8
    lower = middle + 0.75 * eyes.height * arch
    opening = _between(y, upper, lower, 0.012) * ramp(np.abs(across), 1.02, 0.95)
    canvas.blend(opening, (0.62, 0.58, 0.55))
    radius = np.sqrt(np.square(side - eyes.x) + np.square(y - middle + 0.008))
    canvas.blend(
        opening * ramp(radius, eyes.iris_radius + 0.008, eyes.iris_radius - 0.010), eyes.iris
    )
    ring = opening * bump(radius, eyes.iris_radius, 0.012)
    canvas.tint(0.6 * ring, (0.3, 0.3, 0.3))
    canvas.blend(opening * ramp(radius, 0.034, 0.020), (0.01, 0.01, 0.01))
    lid = ramp(np.abs(y - upper), 0.026, 0.008) * ramp(np.abs(across), 1.12, 0.95)
    canvas.tint(np.clip((0.45 + 0.5 * eyes.lash) * lid, 0, 1), (0.10, 0.07, 0.06))
    below = ramp(np.abs(y - lower), 0.018, 0.004) * ramp(np.abs(across), 1.0, 0.8)
    canvas.tint(0.45 * below, (0.4, 0.3, 0.3))
    fold = upper - 0.028 - 0.030 * eyes.lid_crease
    crease = ramp(np.abs(y - fold), 0.020, 0.004) * ramp(np.abs(across), 1.1, 0.8)
    canvas.tint((0.25 + 0.4 * eyes.lid_crease) * crease, (0.45, 0.36, 0.34))


def _paint_hair(canvas: _Canvas, receding: float) -> None:
    person, x, y = canvas.person, canvas.grid.x, canvas.grid.y
    hair, mouth, side = person.hair, person.mouth, np.abs(canvas.grid.x)
    strands = 1 + 0.28 * canvas.noise(7, 120) + 0.12 * canvas.noise(24, 160)
    tone = np.array(hair.colour, np.float32)[:, None, None] * np.maximum(strands, 0.2)
    if hair.moustache > 0:
        lip = mouth.y - mouth.upper
        cover = _between(y, lip - 0.10 + 0.25 * np.square(x), lip + 0.04 + 0.3 * np.square(x), 0.04)
        canvas.blend(
            0.85 * hair.moustache * cover * ramp(side, mouth.width * 1.2, mouth.width), tone
        )
    spare = 1 - bump(x, 0, mouth.width) * bump(y, mouth.y + 0.01, 0.10)
    if hair.goatee > 0:
        cover = ramp(y, mouth.y + 0.10, mouth.y + 0.18) * ramp(side, 0.30, 0.20)
        canvas.blend(0.85 * hair.goatee * cover * ramp(y, 1.16, 1.02), tone)
    if hair.beard > 0:
        cheek = 0.30 + 0.5 * np.clip(0.75 - side, 0, 1) + 0.25 * bump(side, 0.3, 0.2)
        cover = ramp(y - cheek, 0.0, 0.14) * ramp(y, 1.16, 1.02) * ramp(side, 1.40, 1.25)
        canvas.blend(0.8 * hair.beard * cover * np.clip(spare, 0, 1), tone)
    canvas.blend(0.97 * hair_cover(person, canvas.grid, receding), tone)


def _age(young: _Canvas) -> Floats:
    """Return the change of reflectance from age 0 to age 1, float32 [3, H, W]."""
    person, x, y = young.person, young.grid.x, young.grid.y
    ageing, eyes, mouth, side = person.ageing, person.eyes, person.mouth, np.abs(young.grid.x)
    cover = hair_cover(person, young.grid, 0.0)
    old = _Canvas(person)
    old.colour = young.colour.copy()
    thinner = np.maximum(cover - hair_cover(person, young.grid, ageing.receding), 0)
    old.blend(thinner, np.array(person.skin.colour, np.float32) * 1.02)
    hairy = np.maximum(cover - thinner, 0)
    grey = np.mean(young.colour, axis=0, keepdims=True) * 0.4 + 0.36
    old.blend(0.9 * ageing.greying * hairy, grey * np.ones((3, 1, 1), np.float32))
    wobble = 0.012 * young.noise(8, 16)
    waves = np.sin((y + wobble + 0.10 * np.square(x)) * (2 * np.pi / 0.115))
    forehead = ramp(waves, 0.55, 1.0) * bump(y, -0.42, 0.13) * ramp(side, 0.55, 0.35)
    fold_x = person.nose.wings + 0.06 + 0.33 * (y - person.nose.tip_y + 0.05)
    fold = bump(side - fold_x, 0.0, 0.022) * ramp(y, person.nose.tip_y - 0.10, person.nose.tip_y)
    fold = fold * ramp(y, mouth.y + 0.12, mouth.y - 0.02)
    bags = bump(y - 0.25 * np.square(side - eyes.x), eyes.y + eyes.height + 0.06, 0.022)
    bags = bags * ramp(np.abs(side - eyes.x), 0.17, 0.09)
    feet = ramp(np.sin((y - eyes.y) * 75 + (side - eyes.x) * 6), 0.4, 1.0)
    feet = feet * bump(side, eyes.x + 0.27, 0.07) * bump(y, eyes.y, 0.10)
    lines = ageing.wrinkles * (forehead + 0.8 * feet + 0.7 * bags) + ageing.folds * fold
    old.tint(np.clip(0.75 * lines, 0, 1) * (1 - cover), (0.45, 0.36, 0.33))
    spots = ramp(young.noise(36, 60), 1.3, 2.0) * (1 - cover)
    old.tint(0.5 * ageing.spots * spots, (0.65, 0.52, 0.45))
    tone = 1 + ageing.pallor
    old.tint((1 - cover) * np.ones_like(y), (tone, tone * 0.97, tone * 0.92))
    return old.colour - young.colour


def _blur(image_HW: Floats, radius: int) -> Floats:
    """Return the box blur with edge values repeated, float32 [H, W]."""
    size = 2 * radius + 1
    padded = torch.nn.functional.pad(
        torch.from_numpy(image_HW)[None, None], (radius,) * 4, mode="replicate"
    )
    return torch.nn.functional.avg_pool2d(padded, size, stride=1)[0, 0].numpy()
