"""What differs between two images of one person: view, light, expression, age, what hides it.

Every field has one row per image. Angles are radians; lengths are head units unless they say
pixels; colours are linear RGB.

Legend: n images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt

from data.demo.deck import Deck, Floats, chance, colours, deal, generator, normal, uniform

Bools = npt.NDArray[np.bool_]

Pose = Literal["any", "frontal", "profile"]
Period = Literal["any", "young", "old", "adult"]

_COLUMNS = 320
_CELLS = 6
_DEGREE = np.pi / 180

_AGES: dict[str, tuple[float, float]] = {
    "any": (0.0, 1.0),
    "adult": (0.2, 0.8),
    "young": (0.0, 0.2),
    "old": (0.8, 1.0),
}


@dataclass(frozen=True)
class Shot:
    """An image to make, and how it is taken."""

    image: int  # number within the identity; with the seed and the identity it decides the image
    # Frontal is within ±12° of yaw, profile 65° to 90° to either side, any the mixture that
    # training images have.
    pose: Pose = "any"
    period: Period = "any"  # of the age at which the image is taken


@dataclass(frozen=True)
class View:
    """Pose of the head, and its position in the frame (scale and shift in pixels)."""

    yaw: Floats
    pitch: Annotated[Floats, normal(0.0, 6 * _DEGREE)]
    roll: Annotated[Floats, normal(0.0, 5 * _DEGREE)]
    scale: Annotated[Floats, normal(51.0, 1.5)]
    shift_x: Annotated[Floats, normal(0.0, 1.5)]
    shift_y: Annotated[Floats, normal(0.0, 1.5)]
    perspective: Annotated[Floats, uniform(0.02, 0.20)]


def _direction(deck: Deck, spread: float) -> Floats:
    azimuth, elevation = deck.uniform(-spread, spread), deck.uniform(-0.2, 0.8)
    flat = np.cos(elevation)
    return np.stack(
        (np.sin(azimuth) * flat, -np.sin(elevation), np.cos(azimuth) * flat), axis=1
    ).astype(np.float32)


@dataclass(frozen=True)
class Light:
    """Two directional lights, of a strength and a tint, and the ambient one.

    Directions, towards the light, are [n, 3].
    """

    key: Annotated[Floats, uniform(0.5, 1.2)]
    fill: Annotated[Floats, uniform(0.0, 0.4)]
    key_direction: Annotated[Floats, lambda deck: _direction(deck, 1.2)]
    key_tint: Annotated[Floats, colours(0.85, 1.1)]
    fill_direction: Annotated[Floats, lambda deck: _direction(deck, 2.2)]
    fill_tint: Annotated[Floats, colours(0.5, 1.2)]
    ambient: Annotated[
        Floats, lambda deck: deck.uniform(0.25, 0.6)[:, None] * deck.colours(0.85, 1.1)
    ]
    gloss: Annotated[Floats, uniform(0.0, 0.16)]


@dataclass(frozen=True)
class Expression:
    """Strengths of an expression's movements; of a mouth that speaks, how far it is open."""

    speaks: Annotated[Bools, chance(0.4)]
    opening: Annotated[Floats, uniform(0.02, 0.13)]
    smile: Annotated[Floats, normal(0.15, 0.4)]
    pucker: Annotated[Floats, normal(0.0, 0.3)]
    brows: Annotated[Floats, normal(0.0, 0.4)]
    frown: Annotated[Floats, normal(0.0, 0.4)]
    squint: Annotated[Floats, normal(0.0, 0.25)]
    jaw: Annotated[Floats, normal(0.0, 0.3)]
    teeth: Annotated[Floats, uniform(-0.3, 1.0)]


@dataclass(frozen=True)
class Cover:
    """What hides a part of the face; a thing is there if its flag is set."""

    glasses_tinted: Annotated[Bools, chance(0.15)]
    glasses: Annotated[Bools, chance(0.12)]
    glasses_size: Annotated[Floats, uniform(0.19, 0.26)]
    glasses_shape: Annotated[Floats, uniform(0.6, 0.95)]
    glasses_rim: Annotated[Floats, uniform(0.06, 0.16)]
    glasses_colour: Annotated[Floats, lambda deck: deck.colours(0.0, 1.0) ** 3 * 0.6]
    glasses_dark: Annotated[Floats, uniform(0.6, 0.95)]
    glasses_clear: Annotated[Floats, uniform(0.0, 0.12)]
    mask: Annotated[Bools, chance(0.025)]
    mask_top: Annotated[Floats, uniform(0.15, 0.32)]
    mask_colour: Annotated[Floats, colours(0.1, 0.8)]
    hat: Annotated[Bools, chance(0.05)]
    hat_line: Annotated[Floats, uniform(-0.62, -0.36)]
    hat_colour: Annotated[Floats, lambda deck: deck.colours(0.0, 0.8) ** 2]
    hand: Annotated[Bools, chance(0.07)]
    hand_x: Annotated[Floats, uniform(-0.9, 0.9)]
    hand_y: Annotated[Floats, uniform(-0.7, 1.0)]
    hand_width: Annotated[Floats, uniform(0.07, 0.13)]
    hand_length: Annotated[Floats, uniform(0.3, 0.6)]
    hand_angle: Annotated[Floats, uniform(-1.6, 1.6)]
    hand_light: Annotated[Floats, uniform(0.3, 1.5)]
    clothes: Annotated[Floats, lambda deck: deck.colours(0.0, 0.9) ** 2]


@dataclass(frozen=True)
class Camera:
    """What happens to the light on its way into the file; blur and shade only where flagged."""

    fuzzy: Annotated[Bools, chance(0.2)]
    exposure: Annotated[Floats, lambda deck: np.exp(deck.normal(0.0, 0.2)).astype(np.float32)]
    tint: Annotated[Floats, colours(0.9, 1.1)]
    contrast: Annotated[Floats, normal(1.0, 0.10)]
    grey: Annotated[Bools, chance(0.03)]
    shade_angle: Annotated[Floats, uniform(-np.pi, np.pi)]
    shade_offset: Annotated[Floats, uniform(-0.6, 0.6)]
    shaded: Annotated[Bools, chance(0.15)]
    shade_depth: Annotated[Floats, uniform(0.2, 0.5)]
    blur: Annotated[Floats, uniform(0.5, 1.6)]
    noise: Annotated[Floats, uniform(0.0, 0.02)]
    noise_row: Annotated[Floats, uniform(0, 1)]
    noise_column: Annotated[Floats, uniform(0, 1)]


@dataclass(frozen=True)
class Conditions:
    """All that differs between the images of one identity.

    `backdrop` are the colours of the surroundings on a coarse grid, float32 [n, 3, cells, cells].
    """

    view: View
    light: Light
    expression: Expression
    age: Floats
    cover: Cover
    camera: Camera
    backdrop: Floats


def make_conditions(seed: int, identity: int, shots: Sequence[Shot]) -> Conditions:
    """Return the conditions of images of an identity; each row is a function of its shot alone."""
    deck = Deck.of([generator(seed, identity, shot.image) for shot in shots], _COLUMNS)
    low, high = np.array([_AGES[shot.period] for shot in shots], np.float32).T
    return Conditions(
        view=deal(deck, View, yaw=_yaw(deck, [shot.pose for shot in shots])),
        light=deal(deck, Light),
        expression=deal(deck, Expression),
        age=low + (high - low) * deck.uniform(0, 1),
        cover=deal(deck, Cover),
        camera=deal(deck, Camera),
        backdrop=_backdrop(deck),
    )


def _yaw(deck: Deck, poses: Sequence[Pose]) -> Floats:
    kind, size = deck.uniform(0, 1), deck.uniform(0, 1)
    side = np.where(deck.chance(0.5), 1, -1).astype(np.float32)
    wide = np.where(kind < 0.5, 25 * size, np.where(kind < 0.75, 25 + 40 * size, 65 + 25 * size))
    degrees = np.select(
        [np.array([p == name for p in poses]) for name in ("any", "frontal", "profile")],
        [wide, 12 * size, 65 + 25 * size],
    )
    yaw: Floats = (side * degrees * _DEGREE).astype(np.float32)
    return yaw


def _backdrop(deck: Deck) -> Floats:
    mean, busy = deck.colours(0.0, 1.0) ** 1.5, deck.uniform(0.0, 0.8)
    cells = np.stack([deck.colours(0.0, 1.0) ** 2 for _ in range(_CELLS**2)], axis=2)
    cells = mean[:, :, None] + busy[:, None, None] * (cells - mean[:, :, None])
    faded = deck.uniform(0.2, 0.9)[:, None, None]
    cells = cells + faded * (cells.mean(axis=1, keepdims=True) - cells)
    backdrop: Floats = cells.reshape(len(cells), 3, _CELLS, _CELLS).astype(np.float32)
    return backdrop
