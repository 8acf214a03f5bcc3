"""Several people before a background."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from data.demo.conditions import Shot
from data.demo.scenes.figure import Figure, draw_figure

SIZE: Final = (960, 720)
_MAIN: Final = (400, 520)  # pixels of the frame of the person whom the photo is of
_OTHERS: Final = (120, 260)
_THINGS: Final = 14


@dataclass(frozen=True)
class SceneFace:
    """A face in a scene, in its pixels."""

    identity: int
    points: NDArray[np.float64]  # [5, 2], left eye, right eye, nose, corners of the mouth
    yaw: float  # degrees
    visible: bool  # whether all landmarks are seen


@dataclass(frozen=True)
class Scene:
    """A photo, and who is in it: the main person first."""

    image: Image.Image
    faces: list[SceneFace]


def draw_scene(
    seed: int, number: int, main: tuple[int, Shot], others: Sequence[tuple[int, Shot]]
) -> Scene:
    """Return photo `number`: one person in front, the others behind; a pure function of all."""
    rng = np.random.Generator(np.random.Philox(key=[seed, number]))
    pixels = np.asarray(_surroundings(rng), np.float32).copy()
    owner = np.full(pixels.shape[:2], -1)
    placed: list[tuple[Figure, tuple[int, int]]] = []
    main_left = float(rng.uniform(0.3, 0.7))
    for place, (identity, shot) in enumerate([*others, main]):
        low, high = _MAIN if place == len(others) else _OTHERS
        size = 2 * int(rng.integers(low // 2, high // 2))
        figure = draw_figure(seed, identity, shot, size)
        if place == len(others):
            middle, top = main_left, float(rng.uniform(0.05, 0.3))
        else:  # spread over the width; some end behind the main person
            middle = (place + float(rng.uniform(0.2, 0.8))) / len(others)
            top = float(rng.uniform(0.02, 0.35))
        corner = (int(middle * SIZE[0] - size / 2), int(top * SIZE[1]))
        _paint(pixels, owner, figure, corner, place)
        placed.append((figure, corner))
    faces = [_face(figure, corner, owner, place) for place, (figure, corner) in enumerate(placed)]
    image = Image.fromarray(np.rint(pixels).clip(0, 255).astype(np.uint8))
    return Scene(image, [faces[-1], *faces[:-1]])


def _face(
    figure: Figure, corner: tuple[int, int], owner: NDArray[np.int_], place: int
) -> SceneFace:
    points = figure.points + corner
    column, row = np.rint(points).astype(int).T
    height, width = owner.shape
    within = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    seen = within & (owner[row.clip(0, height - 1), column.clip(0, width - 1)] == place)
    return SceneFace(figure.identity, points, figure.yaw, bool(seen.all()) and not figure.hidden)


def _paint(
    pixels: NDArray[np.float32],
    owner: NDArray[np.int_],
    figure: Figure,
    corner: tuple[int, int],
    place: int,
) -> None:
    """Paint a figure with its upper left corner at (x, y); its body reaches down to the edge."""
    height, width = owner.shape
    left, top = corner
    size = len(figure.inside)
    rows = np.minimum(np.arange(height - top), size - 1)  # the last row goes on
    start, end = max(left, 0), min(left + size, width)
    part = slice(start - left, end - left)
    inside = figure.inside[rows, part]
    target = pixels[top:, start:end]
    target += inside[:, :, None] * (figure.pixels[rows, part] - target)
    owner[top:, start:end][inside > 0.5] = place


def _surroundings(rng: np.random.Generator) -> Image.Image:
    """Return a room or a street, out of focus: two surfaces with things before them."""
    image = Image.new("RGB", SIZE, _colour(rng))
    draw = ImageDraw.Draw(image)
    horizon = int(rng.uniform(0.5, 0.8) * SIZE[1])
    draw.rectangle((0, horizon, *SIZE), _colour(rng))
    for _ in range(_THINGS):
        width, height = (int(side) for side in rng.uniform(20, 260, 2))
        x, y = int(rng.uniform(-50, SIZE[0])), int(rng.uniform(-50, SIZE[1]))
        shape = draw.ellipse if rng.random() < 0.4 else draw.rectangle
        shape((x, y, x + width, y + height), _colour(rng), _colour(rng), int(rng.integers(1, 6)))
    image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.5, 4))))
    noise = rng.normal(0, 3, (SIZE[1], SIZE[0], 3))
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = (int(level) for level in rng.integers(20, 236, 3))
    return red, green, blue
