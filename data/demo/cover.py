"""What hides a part of the face: glasses, masks, hats, clothes, and a hand before the camera.

Legend: n images, k of them that have the thing, S image size.
"""

import numpy as np
import torch
from torch import Tensor

from data.demo.conditions import Conditions
from data.demo.identity import Identity
from data.demo.project import pixel_coordinates


def _step(t: Tensor, soft: float) -> Tensor:
    """Return 0 where t is well below 0, 1 well above, with an edge `soft` wide on each side."""
    return (t * (0.5 / soft) + 0.5).clamp_(0, 1)


def _column(values: np.ndarray, rows: Tensor) -> Tensor:
    """Return the chosen rows of [n] as [k, 1, 1], or of [n, 3] as [k, 3, 1, 1]."""
    chosen = torch.from_numpy(np.ascontiguousarray(values, np.float32))[rows]
    return chosen.reshape(*chosen.shape, 1, 1)


def _rows(flags: np.ndarray) -> Tensor:
    return torch.from_numpy(np.flatnonzero(flags))


def cover_on_face(
    person: Identity, conditions: Conditions, x: Tensor, y: Tensor, albedo: Tensor
) -> None:
    """Add clothes, and the glasses, masks and hats of `conditions`, to the reflectance in place.

    `x` and `y`, float32 [n, S, S], are arc length and height on the head; `albedo`, float32
    [n, 3, S, S], is the reflectance.
    """
    things, everyone = conditions.cover, torch.arange(len(x))
    dressed = _step(y - 1.27 + 0.10 * (1 - x.abs()).clamp_(min=0), 0.02)[:, None]
    albedo.lerp_(_column(things.clothes, everyone).expand_as(albedo), dressed)
    if len(rows := _rows(things.mask)):
        side, height = x[rows].abs(), y[rows]
        edge = _column(things.mask_top, rows) + 0.22 * side * side
        inside = _step(height - edge, 0.015) * _step(1.25 - side, 0.03) * _step(1.1 - height, 0.02)
        folds = 1 - 0.18 * _step((height * 45).sin() - 0.6, 0.3)
        paint = _column(things.mask_colour, rows) * folds[:, None]
        albedo[rows] = torch.lerp(albedo[rows], paint, inside[:, None])
    if len(rows := _rows(things.hat)):
        line = _column(things.hat_line, rows) + 0.12 * x[rows].abs().square()
        inside = _step(line - y[rows], 0.015)
        band = 1 - 0.35 * _step(y[rows] - line + 0.14, 0.01)
        paint = _column(things.hat_colour, rows) * band[:, None]
        albedo[rows] = torch.lerp(albedo[rows], paint, inside[:, None])
    if len(rows := _rows(things.glasses)):
        albedo[rows] = _wear_glasses(person, conditions, rows, x[rows], y[rows], albedo[rows])


def _wear_glasses(
    person: Identity, conditions: Conditions, rows: Tensor, x: Tensor, y: Tensor, albedo: Tensor
) -> Tensor:
    """Return the reflectance [k, 3, S, S] with glasses."""
    things, side = conditions.cover, x.abs()
    width = _column(things.glasses_size, rows)
    height = width * _column(things.glasses_shape, rows)
    dx, dy = (side - person.eyes.x) / width, (y - person.eyes.y - 0.03) / height
    across = (dx**4 + dy**4).sqrt_().sqrt_()  # a rounded rectangle, 1 on the rim
    rim_width = _column(things.glasses_rim, rows)
    rim = _step(rim_width - (across - 1).abs(), 0.05)
    bridge = _step(0.025 - (y - person.eyes.y).abs(), 0.01) * _step(
        person.eyes.x - width - side, 0.01
    )
    temple = _step(0.025 - (y - person.eyes.y + 0.03).abs(), 0.01)
    temple = temple * _step(side - person.eyes.x - width, 0.01) * _step(1.35 - side, 0.02)
    frame = torch.maximum(rim, torch.maximum(bridge, temple))
    dark = np.where(things.glasses_tinted, things.glasses_dark, things.glasses_clear)
    glass = _step(1 - across, 0.05) * _column(dark, rows)
    albedo = albedo * (1 - glass[:, None]) + 0.012 * glass[:, None]
    return torch.lerp(
        albedo, _column(things.glasses_colour, rows).expand_as(albedo), frame[:, None]
    )


def open_mouth(
    person: Identity, conditions: Conditions, x: Tensor, y: Tensor, albedo: Tensor
) -> None:
    """Open the mouths that speak; the arguments are those of `cover_on_face`."""
    talk = conditions.expression
    rows = _rows(talk.speaks)
    if not len(rows):
        return
    mouth, opening = person.mouth, _column(talk.opening, rows)
    t = x[rows] / (0.82 * mouth.width)
    inside = (1 - t * t).clamp_(min=0)
    top = mouth.y - 0.12 * opening * inside
    bottom = mouth.y + opening * inside
    height = y[rows]
    hole = _step(height - top, 0.012) * _step(bottom - height, 0.012) * (inside > 0)
    teeth = _step(top + 0.055 - height, 0.01) * _column(talk.teeth, rows).clamp(0, 1)
    dark = torch.tensor((0.09, 0.02, 0.02))[:, None, None]
    white = torch.tensor((0.75, 0.70, 0.62))[:, None, None]
    paint = torch.lerp(dark.expand(len(rows), -1, 1, 1), white, teeth[:, None])
    albedo[rows] = torch.lerp(albedo[rows], paint, hole[:, None])


def cover_in_frame(
    person: Identity, conditions: Conditions, rotation: Tensor, colour: Tensor
) -> None:
    """Add a hand between camera and face, four bars with round ends, to images in place.

    `rotation`, float32 [n, 3, 3], is that of `rotation_matrix`; `colour`, float32 [n, 3, S, S], are
    the images.
    """
    things = conditions.cover
    rows = _rows(things.hand)
    if not len(rows):
        return
    x, y = pixel_coordinates(conditions.view, rotation, colour.shape[-1], 1.0)
    x, y = x[rows] - _column(things.hand_x, rows), y[rows] - _column(things.hand_y, rows)
    angle = _column(things.hand_angle, rows)
    along, across = x * angle.sin() + y * angle.cos(), x * angle.cos() - y * angle.sin()
    width, half = _column(things.hand_width, rows), _column(things.hand_length, rows)
    skin = torch.tensor(person.skin.colour)[:, None, None]
    paint = skin * _column(things.hand_light, rows)[:, None]
    for finger in range(4):
        offset = across - (finger - 1.5) * 2.1 * width
        beyond = (along.abs() - half * (1 - 0.12 * abs(finger - 1.2))).clamp_(min=0)
        distance = (offset * offset + beyond * beyond).sqrt_()
        inside = _step(width - distance, 0.02)[:, None]
        round_ = (1 - 0.6 * (distance / width).clamp_(0, 1).square())[:, None]
        colour[rows] = torch.lerp(colour[rows], paint * round_, inside)
