"""The head as a surface: its radius about the vertical axis, over azimuth and height.

Axes of the head: x to the viewer's right, y down, z out of the face; the vertical axis runs
between the ears. A point of the surface has texture coordinates (u, v), both in [-1, 1]:
u = sin(azimuth / 2), which gives the face twice the resolution of the back of the head and
needs no arc tangent, and v = linear in y.

Legend: H rows (v), W columns (u) of a map.
"""

from dataclasses import dataclass

import numpy as np

from data.demo.deck import Floats
from data.demo.identity import Identity

TOP, BOTTOM = -1.30, 1.50
"""Heights of the first and the last row of every map, in head units."""

ARC = 0.85
"""Arc length on the face per radian of azimuth; turns azimuths into widths for painting."""


@dataclass(frozen=True)
class Grid:
    """The texture coordinates of a map of H rows and W columns, in float32."""

    azimuth: Floats  # [1, W], radians, 0 in front, positive to the viewer's right
    x: Floats  # [1, W], the same as an arc length on the face, in head units
    y: Floats  # [H, 1], height in head units, positive down

    @classmethod
    def of(cls, height: int, width: int) -> "Grid":
        """Return the grid of a map of this size."""
        azimuth = 2 * np.arcsin(np.linspace(-1, 1, width, dtype=np.float32))[None, :]
        y = np.linspace(TOP, BOTTOM, height, dtype=np.float32)[:, None]
        return cls(azimuth, np.float32(ARC) * azimuth, y)


def bump(t: Floats, centre: float, width: float) -> Floats:
    """Return a Gaussian bell of height 1 around `centre`, any shape, width in the units of t."""
    bell: Floats = np.exp(-np.square((t - centre) * np.float32(1 / width)))
    return bell


def ramp(t: Floats, start: float | Floats, end: float | Floats) -> Floats:
    """Return the smooth step that is 0 at `start` and 1 at `end` (which may be below `start`)."""
    s: Floats = np.clip((t - start) / (end - start), 0, 1)
    return s * s * (3 - 2 * s)


def radius_map(person: Identity, grid: Grid) -> Floats:
    """Return the head's radius about its vertical axis, float32 [H, W] in head units."""
    radius = _skull(person, grid) + _features(person, grid) + _nose(person, grid)
    radius += _hair(person, grid)
    radius[0] = -0.05  # closes the head: no ray meets the surface above it
    return radius


def _skull(person: Identity, grid: Grid) -> Floats:
    skull, chin = person.skull, person.skull.chin_y
    cranium, cheek, fore = skull.cranium_width, skull.cheek_width, skull.forehead_depth
    jaw, tip, depth = skull.jaw_width, skull.chin_width, skull.chin_depth
    profile = np.array(  # y, half width, depth of the front, depth of the back
        (
            (-1.22, 0.05, 0.05, 0.05),
            (-1.12, 0.36, 0.38, 0.45),
            (-0.90, 0.64, 0.66, 0.80),
            (-0.60, cranium, fore - 0.04, 1.00),
            (-0.30, cranium + 0.01, fore, 1.05),
            (0.10, cheek + 0.02, 0.82, 0.95),
            (0.50, jaw, 0.83, 0.75),
            (chin - 0.2, tip + 0.12, depth + 0.02, 0.62),
            (chin, tip, depth - 0.08, 0.60),
            (chin + 0.1, 0.42, 0.34, 0.60),
            (1.30, 0.46, 0.28, 0.60),
            (1.40, 0.75, 0.36, 0.62),
            (1.60, 1.30, 0.60, 0.70),
        )
    )
    rows = [_smooth(np.interp(grid.y[:, 0], profile[:, 0], p)) for p in profile.T[1:]]
    width, front, back = (np.maximum(row, 0.02).astype(np.float32)[:, None] for row in rows)
    sine, cosine = np.abs(np.sin(grid.azimuth)), np.cos(grid.azimuth)
    along = np.where(cosine > 0, front, back)
    power = np.float32(2.3)  # a little flatter in front than an ellipse
    inverse: Floats = (sine / width) ** power + (np.abs(cosine) / along) ** power
    radius: Floats = inverse ** (-1 / power)
    return radius


def _smooth(row: Floats) -> Floats:
    kernel = np.array((1, 4, 6, 4, 1)) / 16
    padded = np.pad(row, 2, mode="edge")
    return np.convolve(padded, kernel, mode="valid")


def _features(person: Identity, grid: Grid) -> Floats:
    skull, eyes, mouth = person.skull, person.eyes, person.mouth
    side, y = np.abs(grid.x), grid.y
    relief = -skull.socket * bump(side, eyes.x * 0.9, 0.16) * bump(y, eyes.y, 0.11)
    relief += 0.035 * bump(side, eyes.x, 0.11) * bump(y, eyes.y, 0.08)
    relief += skull.brow_ridge * bump(side, eyes.x, 0.22) * bump(y, eyes.brow_y + 0.02, 0.07)
    relief += skull.cheekbone * bump(side, 0.50, 0.20) * bump(y, 0.22, 0.16)
    lip = bump(side, 0.0, mouth.width * 0.8)
    relief += mouth.protrusion * lip * bump(y, mouth.y - 0.05, 0.055)
    relief += mouth.protrusion * lip * bump(y, mouth.y + 0.065, 0.06)
    relief -= 0.03 * lip * bump(y, mouth.y + 0.17, 0.05)
    relief += 0.05 * bump(side, 0.0, 0.17) * bump(y, skull.chin_y - 0.13, 0.11)
    return relief + skull.ears * ear_cover(grid) * (1 - 0.5 * bump(y, 0.12, 0.10))


def _nose(person: Identity, grid: Grid) -> Floats:
    nose, top = person.nose, person.eyes.y - 0.06
    t = np.clip((grid.y - top) / (nose.tip_y - top), 0, 1)
    ridge = nose.bridge + (nose.tip - nose.bridge) * t**1.4 + nose.hump * np.sin(np.pi * t)
    ridge = ridge * ramp(grid.y, top - 0.10, top + 0.04)
    ridge = ridge * ramp(grid.y, nose.tip_y + 0.12, nose.tip_y + 0.01)
    width = 0.085 + (nose.width - 0.085) * t
    relief: Floats = ridge * np.exp(-np.square(grid.x / width))
    relief += 0.09 * bump(np.abs(grid.x), nose.wings, 0.06) * bump(grid.y, nose.tip_y, 0.07)
    return relief


def _hair(person: Identity, grid: Grid) -> Floats:
    hair = person.hair
    cover = hair_cover(person, grid, 0.0)
    scalp = ramp(grid.y, 0.9, -0.4) if not hair.long else ramp(grid.y, 1.45, 1.1)
    relief = hair.volume * cover * scalp
    if hair.long:  # falls to the shoulders, wider than jaw and neck
        fall = ramp(np.abs(grid.azimuth), 1.15, 1.6) * ramp(grid.y, 0.1, 0.8)
        relief = relief + 0.22 * fall * ramp(grid.y, 1.6, 1.2)
    return relief


def ear_cover(grid: Grid) -> Floats:
    """Return where the ears are, float32 [H, W] in [0, 1]."""
    height = ramp(grid.y, -0.22, -0.10) * ramp(grid.y, 0.42, 0.30)
    return bump(np.abs(grid.azimuth), 1.66, 0.10) * height


def hair_cover(person: Identity, grid: Grid, receding: float) -> Floats:
    """Return where hair covers the scalp, float32 [H, W] in [0, 1].

    Age has pushed the hairline back by `receding`, in head units.
    """
    hair, x = person.hair, grid.x
    line = hair.line_y - receding + hair.peak * bump(x, 0.0, 0.13) + hair.tilt * x
    line = np.minimum(line + 0.8 * (0.25 + hair.temples - receding) * np.square(x), -0.12)
    front = ramp(grid.y - line, 0.03, -0.03)
    azimuth = np.abs(grid.azimuth)
    ear = 0.0 if hair.long else ear_cover(grid)
    edge = 1.15 + (0.0 if hair.long else 0.25) * ramp(grid.y, -0.3, 0.1)
    side = ramp(azimuth - edge, -0.04, 0.06)
    if hair.long:
        return np.maximum(front, side * ramp(grid.y, 1.36, 1.22))
    behind = ramp(grid.y - 0.55 * ramp(azimuth, 1.7, 2.1), hair.sideburn + 0.05, hair.sideburn)
    return np.maximum(front, side * behind) * (1 - ear)


def normal_map(radius_HW: Floats, grid: Grid) -> Floats:
    """Return the outward unit normals of the surface, float32 [3, H, W] in head axes."""
    slope_y, slope_azimuth = np.gradient(radius_HW)
    slope_y = slope_y * np.float32((radius_HW.shape[0] - 1) / (BOTTOM - TOP))
    slope_azimuth = slope_azimuth / np.gradient(grid.azimuth[0])[None, :]
    sine, cosine = np.sin(grid.azimuth), np.cos(grid.azimuth)
    normal = np.stack(
        (
            sine * radius_HW - cosine * slope_azimuth,
            -radius_HW * slope_y,
            cosine * radius_HW + sine * slope_azimuth,
        )
    )
    length = np.sqrt(np.square(normal).sum(axis=0, keepdims=True))
    unit: Floats = (normal / np.maximum(length, np.float32(1e-6))).astype(np.float32)
    return unit
