"""What makes a synthetic person: some sixty numbers that no image of the person changes.

Lengths are in head units: the face is about 1.6 wide and 2.2 high, the pupils lie about 0.66
apart, y points down and y = 0 is the height of the pupils of an average head.
"""

from dataclasses import dataclass

import numpy as np

from data.demo.deck import Deck, generator

_COLUMNS = 256


@dataclass(frozen=True)
class Skull:
    """The shape of the head without its features: widths, depths and heights."""

    cranium_width: float
    cheek_width: float
    jaw_width: float
    chin_width: float
    chin_y: float
    chin_depth: float
    forehead_depth: float
    cheekbone: float
    brow_ridge: float
    socket: float
    ears: float


@dataclass(frozen=True)
class Nose:
    """Height of the ridge at both ends, the hump between, and the widths."""

    tip_y: float
    bridge: float
    tip: float
    hump: float
    width: float
    wings: float


@dataclass(frozen=True)
class Eyes:
    """Place, size, slant and colour of the eyes, and the brows above them."""

    x: float
    y: float
    width: float
    height: float
    slant: float
    iris: tuple[float, float, float]
    iris_radius: float
    lid_crease: float
    lash: float
    brow_y: float
    brow_width: float
    brow_thickness: float
    brow_arch: float
    brow_slope: float
    brow_strength: float


@dataclass(frozen=True)
class Mouth:
    """Place, size and colour of the lips."""

    y: float
    width: float
    upper: float
    lower: float
    curve: float
    cupid: float
    protrusion: float
    colour: tuple[float, float, float]


@dataclass(frozen=True)
class Skin:
    """Colour of the skin and what is written on it; `marks` rows are (x, y, radius, depth)."""

    colour: tuple[float, float, float]
    blush: float
    freckles: float
    mottling: float
    marks: tuple[tuple[float, float, float, float], ...]


@dataclass(frozen=True)
class Hair:
    """Hairline, colour, length and beard; the beard's parts are strengths in [0, 1]."""

    colour: tuple[float, float, float]
    line_y: float
    peak: float
    temples: float
    tilt: float
    sideburn: float
    long: bool
    volume: float
    moustache: float
    goatee: float
    beard: float


@dataclass(frozen=True)
class Ageing:
    """Direction in which this person ages: strengths at age 1 (old) relative to age 0."""

    wrinkles: float
    folds: float
    greying: float
    receding: float
    spots: float
    sagging: float
    pallor: float


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


class _Draw:
    """Scalars from a deck of one row."""

    def __init__(self, deck: Deck) -> None:
        self._deck = deck

    def uniform(self, low: float, high: float) -> float:
        return float(self._deck.uniform(low, high)[0])

    def normal(self, mean: float, deviation: float, least: float = -np.inf) -> float:
        return max(float(self._deck.normal(mean, deviation)[0]), least)

    def chance(self, probability: float) -> bool:
        return bool(self._deck.chance(probability)[0])


def make_identity(seed: int, number: int) -> Identity:
    """Return person `number` of the population that `seed` names; a pure function of both."""
    draw = _Draw(Deck.of([generator(seed, number)], _COLUMNS))
    eyes_y = draw.normal(0.0, 0.03)
    skin = _skin(draw)
    hair = _hair(draw)
    return Identity(
        seed=seed,
        number=number,
        skull=_skull(draw),
        nose=_nose(draw),
        eyes=_eyes(draw, eyes_y),
        mouth=_mouth(draw, skin.colour),
        skin=skin,
        hair=hair,
        ageing=_ageing(draw),
    )


def _skull(draw: _Draw) -> Skull:
    return Skull(
        cranium_width=draw.normal(0.80, 0.046),
        cheek_width=draw.normal(0.76, 0.065),
        jaw_width=draw.normal(0.62, 0.091),
        chin_width=draw.normal(0.36, 0.078, 0.18),
        chin_y=draw.normal(1.02, 0.091),
        chin_depth=draw.normal(0.80, 0.072),
        forehead_depth=draw.normal(0.84, 0.046),
        cheekbone=draw.normal(0.05, 0.033, 0.0),
        brow_ridge=draw.normal(0.045, 0.026, 0.0),
        socket=draw.normal(0.09, 0.033, 0.02),
        ears=draw.normal(0.14, 0.046, 0.04),
    )


def _nose(draw: _Draw) -> Nose:
    return Nose(
        tip_y=draw.normal(0.40, 0.072),
        bridge=draw.normal(0.07, 0.039, 0.0),
        tip=draw.normal(0.27, 0.065),
        hump=draw.normal(0.01, 0.033),
        width=draw.normal(0.12, 0.026, 0.06),
        wings=draw.normal(0.145, 0.039, 0.08),
    )


_IRISES = ((0.10, 0.05, 0.02), (0.26, 0.14, 0.05), (0.20, 0.26, 0.10), (0.14, 0.30, 0.48),
           (0.36, 0.42, 0.44))  # fmt: skip


def _eyes(draw: _Draw, y: float) -> Eyes:
    red, green, blue = _IRISES[int(draw.uniform(0, len(_IRISES)))]
    light = draw.uniform(0.8, 1.25)
    return Eyes(
        x=draw.normal(0.335, 0.039),
        y=y,
        width=draw.normal(0.155, 0.026, 0.09),
        height=draw.normal(0.070, 0.019, 0.03),
        slant=draw.normal(0.0, 0.156),
        iris=(red * light, green * light, blue * light),
        iris_radius=draw.normal(0.066, 0.007),
        lid_crease=draw.uniform(0.0, 1.0),
        lash=draw.uniform(0.2, 1.0),
        brow_y=y - draw.normal(0.20, 0.039),
        brow_width=draw.normal(0.21, 0.033),
        brow_thickness=draw.normal(0.040, 0.018, 0.012),
        brow_arch=draw.normal(0.045, 0.039),
        brow_slope=draw.normal(0.0, 0.156),
        brow_strength=draw.uniform(0.4, 1.0),
    )


def _mouth(draw: _Draw, skin: tuple[float, float, float]) -> Mouth:
    red = draw.uniform(0.1, 0.9)
    lips = np.array(skin) * (1 - red) + np.array((0.50, 0.13, 0.13)) * red
    lips *= draw.uniform(0.65, 1.05)
    return Mouth(
        y=draw.normal(0.66, 0.052),
        width=draw.normal(0.27, 0.052),
        upper=draw.normal(0.055, 0.021, 0.012),
        lower=draw.normal(0.075, 0.023, 0.02),
        curve=draw.normal(0.0, 0.026),
        cupid=draw.uniform(0.0, 0.35),
        protrusion=draw.normal(0.06, 0.033, 0.0),
        colour=(float(lips[0]), float(lips[1]), float(lips[2])),
    )


def _skin(draw: _Draw) -> Skin:
    melanin = draw.uniform(0.0, 1.0) ** 1.5
    light, dark = np.array((0.80, 0.53, 0.41)), np.array((0.20, 0.105, 0.065))
    colour = light ** (1 - melanin) * dark**melanin  # mixed as pigments are: in the logarithm
    colour = colour * (1 + 0.10 * np.array((draw.normal(0, 0.7), draw.normal(0, 0.6), 0.0)))
    colour[2] *= 1 + draw.normal(0, 0.13)
    marks = []
    for _ in range(8):
        place = (draw.normal(0.0, 0.24), draw.uniform(-0.5, 0.92))
        radius, depth = draw.uniform(0.025, 0.065), draw.uniform(0.5, 0.9)
        if draw.chance(0.35):
            marks.append((*place, radius, depth))
    return Skin(
        colour=(float(colour[0]), float(colour[1]), float(colour[2])),
        blush=draw.uniform(0.0, 1.0),
        freckles=max(0.0, draw.uniform(-1.5, 1.0)),
        mottling=draw.uniform(0.3, 1.0),
        marks=tuple(marks),
    )


_HAIRS = ((0.015, 0.012, 0.012), (0.05, 0.03, 0.02), (0.11, 0.06, 0.03), (0.24, 0.14, 0.07),
          (0.50, 0.34, 0.16), (0.30, 0.09, 0.03), (0.38, 0.36, 0.34))  # fmt: skip


def _hair(draw: _Draw) -> Hair:
    red, green, blue = _HAIRS[int(draw.uniform(0, len(_HAIRS)))]
    light = draw.uniform(0.5, 1.5)
    bearded, long = draw.chance(0.4), draw.chance(0.4)
    grows = 1.0 if bearded and not long else 0.0
    return Hair(
        colour=(red * light, green * light, blue * light),
        line_y=draw.normal(-0.60, 0.16),
        peak=draw.normal(0.02, 0.07),
        temples=draw.normal(0.0, 0.32),
        tilt=draw.normal(0.0, 0.18),
        sideburn=draw.uniform(-0.1, 0.5),
        long=long,
        volume=draw.uniform(0.03, 0.14),
        moustache=grows * max(0.0, draw.uniform(-0.5, 1.0)),
        goatee=grows * max(0.0, draw.uniform(-0.5, 1.0)),
        beard=grows * max(0.0, draw.uniform(-0.8, 1.0)),
    )


def _ageing(draw: _Draw) -> Ageing:
    return Ageing(
        wrinkles=draw.uniform(0.3, 1.0),
        folds=draw.uniform(0.2, 1.0),
        greying=draw.uniform(0.0, 0.8),
        receding=draw.uniform(0.0, 0.35),
        spots=draw.uniform(0.0, 1.0),
        sagging=draw.uniform(0.2, 1.0),
        pallor=draw.normal(0.0, 0.12),
    )
