"""Paints skin and features of an identity at age 0; hair is painted later."""

import numpy as np

from data.demo.canvas import Canvas, between, noise
from data.demo.geometry import bump, ramp
from data.demo.identity import Identity


def paint_skin(canvas: Canvas, person: Identity, rng: np.random.Generator) -> None:
    """Paint blotches, blush, freckles and moles over a canvas of the skin's colour."""
    skin, nose, eyes = person.skin, person.nose, person.eyes
    canvas.colour *= 1 + skin.mottling * (0.05 * noise(rng, 14, 28) + 0.04 * noise(rng, 42, 72))
    face = canvas.part(-0.6, 0.9, -1.1, 1.1)
    side, y = face.side, face.grid.y
    flush = bump(side, 0.46, 0.20) * bump(y, 0.30, 0.18)
    flush += 0.6 * bump(side, 0, 0.13) * bump(y, nose.tip_y - 0.03, 0.10)
    face.tint(0.5 * skin.blush * flush, (1.05, 0.62, 0.62))
    face.tint(0.5 * bump(side, eyes.x, 0.16) * bump(y, eyes.y, 0.12), (0.8, 0.7, 0.72))
    if skin.freckles > 0:
        where = bump(canvas.side, 0.28, 0.34) * bump(canvas.grid.y, 0.22, 0.30)
        spots = ramp(noise(rng, 100, 130), 1.0, 1.7) * where
        freckles = np.minimum(1.6 * skin.freckles * spots, 1)
        canvas.tint(freckles, (0.62, 0.45, 0.38))
    for mark_x, mark_y, radius, depth in skin.marks:
        reach = 1.5 * radius
        spot = canvas.part(mark_y - reach, mark_y + reach, mark_x - reach, mark_x + reach)
        distance = np.sqrt(np.square(spot.grid.x - mark_x) + np.square(spot.grid.y - mark_y))
        spot.tint(depth * ramp(distance, radius * 1.4, radius * 0.6), (0.28, 0.20, 0.18))


def paint_features(canvas: Canvas, person: Identity, rng: np.random.Generator) -> None:
    """Paint nostrils, mouth, eyes and brows."""
    nose = person.nose
    below = canvas.part(nose.tip_y - 0.2, nose.tip_y + 0.2, -0.4, 0.4)
    side, y = below.side, below.grid.y
    nostril = bump(side, nose.wings * 0.55, 0.045) * bump(y, nose.tip_y + 0.055, 0.028)
    below.tint(np.minimum(1.3 * nostril, 1), (0.22, 0.15, 0.14))
    crease = bump(side, nose.wings + 0.035, 0.025) * bump(y, nose.tip_y, 0.07)
    below.tint(0.5 * crease, (0.6, 0.5, 0.5))
    _paint_mouth(canvas.part(person.mouth.y - 0.25, person.mouth.y + 0.25, -0.5, 0.5), person)
    _paint_eyes(canvas.part(person.eyes.y - 0.3, person.eyes.y + 0.2, -0.65, 0.65), person)
    _paint_brows(canvas.part(-0.6, 0.1, -0.8, 0.8), person, rng)


def _paint_mouth(canvas: Canvas, person: Identity) -> None:
    mouth, x, y = person.mouth, canvas.grid.x, canvas.grid.y
    t = canvas.side / mouth.width
    inside = np.clip(1 - t * t, 0, 1)
    line = mouth.y - mouth.curve * t * t
    bow = 1 - mouth.cupid * bump(x, 0.0, 0.045)
    upper = line - mouth.upper * inside**0.7 * bow
    lower = line + mouth.lower * np.sqrt(inside)
    edge = ramp(t, 1.03, 0.93)
    canvas.blend(0.9 * between(y, upper, lower, 0.014) * edge, mouth.colour)
    canvas.tint(0.35 * between(y, upper, line, 0.01) * edge, (0.7, 0.65, 0.65))
    seam = ramp(np.abs(y - line), 0.022, 0.006) * ramp(t, 1.1, 0.9)
    canvas.tint(0.85 * seam, (0.25, 0.16, 0.16))


def _paint_eyes(canvas: Canvas, person: Identity) -> None:
    eyes, side, y = person.eyes, canvas.side, canvas.grid.y
    across = (side - eyes.x) / eyes.width
    reach = np.abs(across)
    middle = eyes.y - eyes.slant * (side - eyes.x)
    arch = np.clip(1 - across * across, 0, 1)
    upper = middle - eyes.height * arch**0.8
    lower = middle + 0.75 * eyes.height * arch
    opening = between(y, upper, lower, 0.012) * ramp(reach, 1.02, 0.95)
    canvas.blend(opening, (0.62, 0.58, 0.55))
    radius = np.sqrt(np.square(side - eyes.x) + np.square(y - middle + 0.008))
    iris = ramp(radius, eyes.iris_radius + 0.008, eyes.iris_radius - 0.010)
    canvas.blend(opening * iris, eyes.iris)
    canvas.tint(0.6 * opening * bump(radius, eyes.iris_radius, 0.012), (0.3, 0.3, 0.3))
    canvas.blend(opening * ramp(radius, 0.034, 0.020), (0.01, 0.01, 0.01))
    lid = ramp(np.abs(y - upper), 0.026, 0.008) * ramp(reach, 1.12, 0.95)
    canvas.tint((0.45 + 0.5 * eyes.lash) * lid, (0.10, 0.07, 0.06))
    below = ramp(np.abs(y - lower), 0.018, 0.004) * ramp(reach, 1.0, 0.8)
    canvas.tint(0.45 * below, (0.4, 0.3, 0.3))
    fold = upper - 0.028 - 0.030 * eyes.lid_crease
    crease = ramp(np.abs(y - fold), 0.020, 0.004) * ramp(reach, 1.1, 0.8)
    canvas.tint((0.25 + 0.4 * eyes.lid_crease) * crease, (0.45, 0.36, 0.34))


def _paint_brows(canvas: Canvas, person: Identity, rng: np.random.Generator) -> None:
    eyes, side, y = person.eyes, canvas.side, canvas.grid.y
    t = (side - eyes.x) / eyes.brow_width
    line = eyes.brow_y + eyes.brow_slope * (side - eyes.x) + eyes.brow_arch * np.square(t)
    thick = eyes.brow_thickness * (1.1 - 0.5 * np.clip(t, 0, 1))
    brow = ramp(np.abs(y - line), thick * 1.25, thick * 0.55) * ramp(np.abs(t), 1.05, 0.85)
    strands = 0.85 + 0.3 * rng.random(side.shape, dtype=np.float32)
    red, green, blue = (0.6 * value + 0.01 for value in person.hair.colour)
    canvas.blend(np.clip(eyes.brow_strength * brow * strands, 0, 1), (red, green, blue))
