"""What differs between two images of one person: view, light, expression, age, what hides it.

Every field has one row an image. Angles are radians; lengths are head units unless they say
pixels; colours are linear RGB.

Legend: n images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from data.demo.deck import Deck, Floats, generator

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
    """One image to make: its number within the identity, and what kind it shall be.

    Attributes:
        image: number within the identity; with the seed and the identity, it decides the image.
        pose: "frontal" is within ±12° of yaw, "profile" is 65° to 90° to either side, "any" is
            the mixture that training images have.
        period: range of the age that the image is taken at.
    """

    image: int
    pose: Pose = "any"
    period: Period = "any"


@dataclass(frozen=True)
class View:
    """Pose of the head, and its place in the frame (scale and shift in pixels)."""

    yaw: Floats
    pitch: Floats
    roll: Floats
    scale: Floats
    shift_x: Floats
    shift_y: Floats
    perspective: Floats


@dataclass(frozen=True)
class Light:
    """Two directional lights (n, 3: towards the light, and colours) and the ambient one."""

    key_direction: Floats
    key_colour: Floats
    fill_direction: Floats
    fill_colour: Floats
    ambient: Floats
    gloss: Floats


@dataclass(frozen=True)
class Expression:
    """Strengths of the warps that an expression is made of, and how far the mouth is open."""

    smile: Floats
    pucker: Floats
    brows: Floats
    frown: Floats
    squint: Floats
    jaw: Floats
    opening: Floats
    teeth: Floats


@dataclass(frozen=True)
class Cover:
    """What hides a part of the face; a thing is there where its flag is set."""

    glasses: Bools
    glasses_size: Floats
    glasses_shape: Floats
    glasses_rim: Floats
    glasses_colour: Floats
    glasses_dark: Floats
    mask: Bools
    mask_top: Floats
    mask_colour: Floats
    hat: Bools
    hat_line: Floats
    hat_colour: Floats
    hand: Bools
    hand_x: Floats
    hand_y: Floats
    hand_width: Floats
    hand_length: Floats
    hand_angle: Floats
    hand_light: Floats
    clothes: Floats


@dataclass(frozen=True)
class Camera:
    """What happens to the light on its way into the file."""

    exposure: Floats
    tint: Floats
    contrast: Floats
    grey: Bools
    shade_angle: Floats
    shade_offset: Floats
    shade_depth: Floats
    blur: Floats
    noise: Floats
    noise_row: Floats
    noise_column: Floats


@dataclass(frozen=True)
class Backdrop:
    """Colours of the surroundings on a coarse grid, float32 [n, 3, cells, cells]."""

    colours: Floats


@dataclass(frozen=True)
class Conditions:
    """All that differs between the images of one identity."""

    view: View
    light: Light
    expression: Expression
    age: Floats
    cover: Cover
    camera: Camera
    backdrop: Backdrop


def make_conditions(seed: int, identity: int, shots: Sequence[Shot]) -> Conditions:
    """Return the conditions of images of an identity; each row is a function of its shot alone."""
    deck = Deck.of([generator(seed, identity, shot.image) for shot in shots], _COLUMNS)
    low, high = np.array([_AGES[shot.period] for shot in shots], np.float32).T
    return Conditions(
        view=_view(deck, [shot.pose for shot in shots]),
        light=_light(deck),
        expression=_expression(deck),
        age=low + (high - low) * deck.uniform(0, 1),
        cover=_cover(deck),
        camera=_camera(deck),
        backdrop=_backdrop(deck),
    )


def _view(deck: Deck, poses: Sequence[Pose]) -> View:
    sort, size = deck.uniform(0, 1), deck.uniform(0, 1)
    side = np.where(deck.chance(0.5), 1, -1).astype(np.float32)
    wide = np.where(sort < 0.5, 25 * size, np.where(sort < 0.75, 25 + 40 * size, 65 + 25 * size))
    degrees = np.select(
        [np.array([p == name for p in poses]) for name in ("any", "frontal", "profile")],
        [wide, 12 * size, 65 + 25 * size],
    )
    return View(
        yaw=(side * degrees * _DEGREE).astype(np.float32),
        pitch=deck.normal(0.0, 6 * _DEGREE),
        roll=deck.normal(0.0, 5 * _DEGREE),
        scale=deck.normal(51.0, 1.5),
        shift_x=deck.normal(0.0, 1.5),
        shift_y=deck.normal(0.0, 1.5),
        perspective=deck.uniform(0.02, 0.20),
    )


def _light(deck: Deck) -> Light:
    def direction(spread: float) -> Floats:
        azimuth, elevation = deck.uniform(-spread, spread), deck.uniform(-0.2, 0.8)
        flat = np.cos(elevation)
        return np.stack(
            (np.sin(azimuth) * flat, -np.sin(elevation), np.cos(azimuth) * flat), axis=1
        ).astype(np.float32)

    key, fill = deck.uniform(0.5, 1.2)[:, None], deck.uniform(0.0, 0.4)[:, None]
    return Light(
        key_direction=direction(1.2),
        key_colour=key * deck.colours(0.85, 1.1),
        fill_direction=direction(2.2),
        fill_colour=fill * deck.colours(0.5, 1.2),
        ambient=deck.uniform(0.25, 0.6)[:, None] * deck.colours(0.85, 1.1),
        gloss=deck.uniform(0.0, 0.16),
    )


def _expression(deck: Deck) -> Expression:
    speaks = deck.chance(0.4)
    opening = deck.uniform(0.02, 0.13)
    return Expression(
        smile=deck.normal(0.15, 0.4),
        pucker=deck.normal(0.0, 0.3),
        brows=deck.normal(0.0, 0.4),
        frown=deck.normal(0.0, 0.4),
        squint=deck.normal(0.0, 0.25),
        jaw=deck.normal(0.0, 0.3) + np.where(speaks, 5 * opening, 0).astype(np.float32),
        opening=np.where(speaks, opening, 0).astype(np.float32),
        teeth=deck.uniform(-0.3, 1.0),
    )


def _cover(deck: Deck) -> Cover:
    tinted = deck.chance(0.15)
    return Cover(
        glasses=deck.chance(0.12),
        glasses_size=deck.uniform(0.19, 0.26),
        glasses_shape=deck.uniform(0.6, 0.95),
        glasses_rim=deck.uniform(0.06, 0.16),
        glasses_colour=deck.colours(0.0, 1.0) ** 3 * 0.6,
        glasses_dark=np.where(tinted, deck.uniform(0.6, 0.95), deck.uniform(0.0, 0.12)),
        mask=deck.chance(0.025),
        mask_top=deck.uniform(0.15, 0.32),
        mask_colour=deck.colours(0.1, 0.8),
        hat=deck.chance(0.05),
        hat_line=deck.uniform(-0.62, -0.36),
        hat_colour=deck.colours(0.0, 0.8) ** 2,
        hand=deck.chance(0.07),
        hand_x=deck.uniform(-0.9, 0.9),
        hand_y=deck.uniform(-0.7, 1.0),
        hand_width=deck.uniform(0.07, 0.13),
        hand_length=deck.uniform(0.3, 0.6),
        hand_angle=deck.uniform(-1.6, 1.6),
        hand_light=deck.uniform(0.3, 1.5),
        clothes=deck.colours(0.0, 0.9) ** 2,
    )


def _camera(deck: Deck) -> Camera:
    fuzzy = deck.chance(0.2)
    return Camera(
        exposure=np.exp(deck.normal(0.0, 0.2)).astype(np.float32),
        tint=deck.colours(0.9, 1.1),
        contrast=deck.normal(1.0, 0.10),
        grey=deck.chance(0.03),
        shade_angle=deck.uniform(-np.pi, np.pi),
        shade_offset=deck.uniform(-0.6, 0.6),
        shade_depth=np.where(deck.chance(0.15), deck.uniform(0.2, 0.5), 0).astype(np.float32),
        blur=np.where(fuzzy, deck.uniform(0.5, 1.6), 0).astype(np.float32),
        noise=deck.uniform(0.0, 0.02),
        noise_row=deck.uniform(0, 1),
        noise_column=deck.uniform(0, 1),
    )


def _backdrop(deck: Deck) -> Backdrop:
    mean, busy = deck.colours(0.0, 1.0) ** 1.5, deck.uniform(0.0, 0.8)
    cells = np.stack([deck.colours(0.0, 1.0) ** 2 for _ in range(_CELLS**2)], axis=2)
    cells = mean[:, :, None] + busy[:, None, None] * (cells - mean[:, :, None])
    faded = deck.uniform(0.2, 0.9)[:, None, None]
    cells = cells + faded * (cells.mean(axis=1, keepdims=True) - cells)
    return Backdrop(cells.reshape(len(cells), 3, _CELLS, _CELLS).astype(np.float32))
