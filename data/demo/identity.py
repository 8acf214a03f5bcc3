"""What makes a synthetic person: some sixty numbers that are the same in every image.

Lengths are in head units: the face is about 1.6 wide and 2.2 high, the pupils are about 0.66
apart, y points down and y = 0 is the height of the pupils of an average head.
"""

from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np

from data.demo.deck import ScalarDeck, deal, generator, normal, uniform

Colour = tuple[float, float, float]
"""Linear RGB."""

_COLUMNS = 256


@dataclass(frozen=True)
class Skull:
    """The shape of the head without its features: widths, depths and heights."""

    cranium_width: Annotated[float, normal(0.80, 0.046)]
    cheek_width: Annotated[float, normal(0.76, 0.065)]
    jaw_width: Annotated[float, normal(0.62, 0.091)]
    chin_width: Annotated[float, normal(0.36, 0.078, 0.18)]
    chin_y: Annotated[float, normal(1.02, 0.091)]
    chin_depth: Annotated[float, normal(0.80, 0.072)]
    forehead_depth: Annotated[float, normal(0.84, 0.046)]
    cheekbone: Annotated[float, normal(0.05, 0.033, 0.0)]
    brow_ridge: Annotated[float, normal(0.045, 0.026, 0.0)]
    socket: Annotated[float, normal(0.09, 0.033, 0.02)]
    ears: Annotated[float, normal(0.14, 0.046, 0.04)]


@dataclass(frozen=True)
class Nose:
    """Height of the ridge at both ends, the hump between, and the widths."""

    tip_y: Annotated[float, normal(0.40, 0.072)]
    bridge: Annotated[float, normal(0.07, 0.039, 0.0)]
    tip: Annotated[float, normal(0.27, 0.065)]
    hump: Annotated[float, normal(0.01, 0.033)]
    width: Annotated[float, normal(0.12, 0.026, 0.06)]
    wings: Annotated[float, normal(0.145, 0.039, 0.08)]


@dataclass(frozen=True)
class Eyes:
    """Position, size, slant and colour of the eyes, and the brows above them."""

    x: Annotated[float, normal(0.335, 0.039)]
    y: float
    width: Annotated[float, normal(0.155, 0.026, 0.09)]
    height: Annotated[float, normal(0.070, 0.019, 0.03)]
    slant: Annotated[float, normal(0.0, 0.156)]
    iris: Colour
    iris_radius: Annotated[float, normal(0.066, 0.007)]
    lid_crease: Annotated[float, uniform(0.0, 1.0)]
    lash: Annotated[float, uniform(0.2, 1.0)]
    brow_distance: Annotated[float, normal(0.20, 0.039)]
    brow_width: Annotated[float, normal(0.21, 0.033)]
    brow_thickness: Annotated[float, normal(0.040, 0.018, 0.012)]
    brow_arch: Annotated[float, normal(0.045, 0.039)]
    brow_slope: Annotated[float, normal(0.0, 0.156)]
    brow_strength: Annotated[float, uniform(0.4, 1.0)]

    @property
    def brow_y(self) -> float:
        """Height of the brows."""
        return self.y - self.brow_distance


@dataclass(frozen=True)
class Mouth:
    """Position, size and colour of the lips."""

    y: Annotated[float, normal(0.66, 0.052)]
    width: Annotated[float, normal(0.27, 0.052)]
    upper: Annotated[float, normal(0.055, 0.021, 0.012)]
    lower: Annotated[float, normal(0.075, 0.023, 0.02)]
    curve: Annotated[float, normal(0.0, 0.026)]
    cupid: Annotated[float, uniform(0.0, 0.35)]
    protrusion: Annotated[float, normal(0.06, 0.033, 0.0)]
    colour: Colour


@dataclass(frozen=True)
class Skin:
    """Colour and texture of the skin; `marks` are (x, y, radius, depth)."""

    colour: Colour
    blush: Annotated[float, uniform(0.0, 1.0)]
    freckles: Annotated[float, uniform(-1.5, 1.0, 0.0)]
    mottling: Annotated[float, uniform(0.3, 1.0)]
    marks: tuple[tuple[float, float, float, float], ...]


@dataclass(frozen=True)
class Hair:
    """Hairline, colour, length and beard; the beard's parts are strengths in [0, 1]."""

    colour: Colour
    line_y: Annotated[float, normal(-0.60, 0.16)]
    peak: Annotated[float, normal(0.02, 0.07)]
    temples: Annotated[float, normal(0.0, 0.32)]
    tilt: Annotated[float, normal(0.0, 0.18)]
    sideburn: Annotated[float, uniform(-0.1, 0.5)]
    long: bool
    volume: Annotated[float, uniform(0.03, 0.14)]
    moustache: Annotated[float, uniform(-0.5, 1.0, 0.0)]
    goatee: Annotated[float, uniform(-0.5, 1.0, 0.0)]
    beard: Annotated[float, uniform(-0.8, 1.0, 0.0)]


@dataclass(frozen=True)
class Ageing:
    """How this person ages: strengths at age 1 (old) relative to age 0."""

    wrinkles: Annotated[float, uniform(0.3, 1.0)]
    folds: Annotated[float, uniform(0.2, 1.0)]
    greying: Annotated[float, uniform(0.0, 0.8)]
    receding: Annotated[float, uniform(0.0, 0.35)]
    spots: Annotated[float, uniform(0.0, 1.0)]
    sagging: Annotated[float, uniform(0.2, 1.0)]
    pallor: Annotated[float, normal(0.0, 0.12)]


@dataclass(frozen=True)
class Identity:
    """One synthetic person; see the parts. `number` seeds the fine texture."""

    seed: int
    number: int
    skull: Skull
    nose: Nose
    eyes: Eyes
    mouth: Mouth
    skin: Skin
    hair: Hair
    ageing: Ageing


def make_identity(seed: int, number: int) -> Identity:
    """Return person `number` of the population of `seed`; a pure function of both."""
    deck = ScalarDeck(generator(seed, number), _COLUMNS)
    eyes_y = deck.normal(0.0, 0.03)
    skin = _skin(deck)
    hair = _hair(deck)
    return Identity(
        seed=seed,
        number=number,
        skull=deal(deck, Skull),
        nose=deal(deck, Nose),
        eyes=deal(deck, Eyes, iris=_shade(deck, _IRISES, 0.8, 1.25), y=eyes_y),
        mouth=deal(deck, Mouth, colour=_lips(deck, skin.colour)),
        skin=skin,
        hair=hair,
        ageing=deal(deck, Ageing),
    )


_IRISES = ((0.10, 0.05, 0.02), (0.26, 0.14, 0.05), (0.20, 0.26, 0.10), (0.14, 0.30, 0.48),
           (0.36, 0.42, 0.44))  # fmt: skip
_HAIRS = ((0.015, 0.012, 0.012), (0.05, 0.03, 0.02), (0.11, 0.06, 0.03), (0.24, 0.14, 0.07),
          (0.50, 0.34, 0.16), (0.30, 0.09, 0.03), (0.38, 0.36, 0.34))  # fmt: skip


def _shade(deck: ScalarDeck, choices: tuple[Colour, ...], least: float, most: float) -> Colour:
    """Return one of the colours, its brightness multiplied by `least` to `most`."""
    red, green, blue = choices[int(deck.uniform(0, len(choices)))]
    light = deck.uniform(least, most)
    return red * light, green * light, blue * light


def _lips(deck: ScalarDeck, skin: Colour) -> Colour:
    red = deck.uniform(0.1, 0.9)
    lips = np.array(skin) * (1 - red) + np.array((0.50, 0.13, 0.13)) * red
    lips *= deck.uniform(0.65, 1.05)
    return float(lips[0]), float(lips[1]), float(lips[2])


def _skin(deck: ScalarDeck) -> Skin:
    melanin = deck.uniform(0.0, 1.0) ** 1.5
    light, dark = np.array((0.80, 0.53, 0.41)), np.array((0.20, 0.105, 0.065))
    colour = light ** (1 - melanin) * dark**melanin  # pigments mix in the logarithm
    colour = colour * (1 + 0.10 * np.array((deck.normal(0, 0.7), deck.normal(0, 0.6), 0.0)))
    colour[2] *= 1 + deck.normal(0, 0.13)
    marks = []
    for _ in range(8):
        x, y = deck.normal(0.0, 0.24), deck.uniform(-0.5, 0.92)
        radius, depth = deck.uniform(0.025, 0.065), deck.uniform(0.5, 0.9)
        if deck.chance(0.35):
            marks.append((x, y, radius, depth))
    return deal(deck, Skin, colour=tuple(colour.tolist()), marks=tuple(marks))


def _hair(deck: ScalarDeck) -> Hair:
    colour = _shade(deck, _HAIRS, 0.5, 1.5)
    bearded, long = deck.chance(0.4), deck.chance(0.4)
    hair = deal(deck, Hair, colour=colour, long=long)
    return hair if bearded and not long else replace(hair, moustache=0.0, goatee=0.0, beard=0.0)
