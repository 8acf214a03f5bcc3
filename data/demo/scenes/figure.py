"""One of the demo's people, head and shoulders, cut out of the background."""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from data.demo.camera import background, photograph
from data.demo.conditions import Shot, make_conditions
from data.demo.identity import Identity, make_identity
from data.demo.render import look
from data.demo.texture import paint

_SCALE: Final = 0.30  # pixels per head unit and pixel of the frame: hair and shoulders fit
_HIDDEN: Final = 0.06  # head units between a landmark and the closest point that is seen


@dataclass(frozen=True)
class Figure:
    """A person in a square frame."""

    identity: int
    pixels: NDArray[np.uint8]  # [S, S, 3]
    inside: NDArray[np.float32]  # [S, S], 1 where the person is
    points: NDArray[np.float64]  # [5, 2], landmarks, x and y from the centre of the first pixel
    yaw: float  # degrees, how far the head is turned to either side
    hidden: bool  # whether the head itself hides a landmark


def draw_figure(seed: int, identity: int, shot: Shot, size: int) -> Figure:
    """Return a person in a frame of `size` pixels, an even number; a pure function of all."""
    person = make_identity(seed, identity)
    conditions = make_conditions(seed, identity, [shot])
    view = replace(
        conditions.view,
        scale=np.full(1, _SCALE * size, np.float32),
        shift_x=np.zeros(1, np.float32),
        shift_y=np.zeros(1, np.float32),
    )
    conditions = replace(conditions, view=view)
    seen = look(paint(person), conditions, size)
    light = torch.lerp(background(conditions, size), seen.colour, seen.inside)
    inside = seen.inside[0, 0].numpy()
    points, hidden = _landmarks(
        person, seen.x[0].numpy(), seen.y[0].numpy(), inside > 0.5, 1 / (_SCALE * size)
    )
    yaw = abs(float(view.yaw[0])) * 180 / np.pi
    return Figure(identity, photograph(conditions, light)[0], inside, points, yaw, hidden)


def _landmarks(
    person: Identity,
    x: NDArray[np.float32],
    y: NDArray[np.float32],
    inside: NDArray[np.bool_],
    pixel: float,
) -> tuple[NDArray[np.float64], bool]:
    """Return where the landmarks are seen, and whether one is hidden.

    `x` and `y` are the place on the head that each pixel shows, expression included; `pixel` is the
    width of one in head units.
    """
    eyes, nose, mouth = person.eyes, person.nose, person.mouth
    places = (
        (-eyes.x, eyes.y),
        (eyes.x, eyes.y),
        (0.0, nose.tip_y),
        (-mouth.width, mouth.y - mouth.curve),
        (mouth.width, mouth.y - mouth.curve),
    )
    points, hidden = np.empty((5, 2)), False
    rows, columns = np.nonzero(inside)
    for number, (place_x, place_y) in enumerate(places):
        square = (x[rows, columns] - place_x) ** 2 + (y[rows, columns] - place_y) ** 2
        least = square.min()
        weights = np.exp(-(square - least) / (2 * pixel**2))  # finer than a pixel
        points[number] = np.average(np.stack((columns, rows), axis=1), axis=0, weights=weights)
        hidden |= bool(least > max(_HIDDEN, pixel) ** 2)
    return points, hidden
