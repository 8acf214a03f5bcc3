"""Expressions, and the way age moves a face, as small displacements of texture coordinates.

Each image's displacement is a weighted sum of smooth fields that are placed by the identity's
own features: a coarse map that the renderer samples like any other.

Legend: n images, K fields, h rows and w columns of a coarse map.
"""

import numpy as np
import torch
from torch import Tensor

from data.demo.conditions import Conditions
from data.demo.deck import Floats
from data.demo.geometry import ARC, BOTTOM, TOP, Grid, bump, ramp
from data.demo.identity import Identity

_GRID = Grid.of(56, 72)


def displacement(person: Identity, conditions: Conditions) -> Tensor:
    """Return where to read the texture instead, float32 [n, 2, h, w] to add to (u, v)."""
    e, age = conditions.expression, conditions.age
    weights = (e.smile, e.pucker, e.brows, e.frown, e.squint, e.jaw, (age - 0.4) * 1.6)
    fields = torch.from_numpy(_fields(person))
    assert len(weights) == len(fields), "each field has its weight"
    total = torch.zeros((len(age), *fields.shape[1:]))
    for weight, field in zip(weights, fields, strict=True):
        total += torch.from_numpy(weight)[:, None, None, None] * field
    return total


def _fields(person: Identity) -> Floats:
    """Return the displacement fields, float32 [K, 2, h, w] in units of (u, v)."""
    eyes, mouth = person.eyes, person.mouth
    x, y, side = _GRID.x, _GRID.y, np.abs(_GRID.x)
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
    slope = np.float32(0.5 / ARC) * np.cos(_GRID.azimuth / 2)  # du/dx
    rows = 2 / (BOTTOM - TOP)
    return np.stack([np.stack((dx * slope + zero, dy * rows + zero)) for dx, dy in moves]).astype(
        np.float32
    )
