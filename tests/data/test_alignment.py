import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from data.alignment import (
    TEMPLATE,
    AlignmentError,
    Points,
    crop_face,
    fit_similarity,
    warp,
    warp_published,
)

FOLDER = Path(__file__).parents[1] / "fixtures" / "evaluation" / "alignment"


def moved(points: Points, scale: float, degrees: float, shift: tuple[float, float]) -> Points:
    """Return points scaled, turned clockwise as a picture is seen, and moved."""
    turn = math.radians(degrees)
    matrix = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    result: Points = scale * points @ matrix.T + np.array(shift)
    return result


def umeyama(points: Points, targets: Points) -> Points:
    """Return the closed form of the paper, by a singular value decomposition."""
    source, target = points - points.mean(0), targets - targets.mean(0)
    u, d, vt = np.linalg.svd(target.T @ source / len(points))
    sign = np.array([1, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = u @ np.diag(sign) @ vt
    scale = (d * sign).sum() / source.var(0).sum()
    shift = targets.mean(0) - scale * rotation @ points.mean(0)
    return np.column_stack([scale * rotation, shift])


def blobs(points: Points, side: int, radius: float) -> Image.Image:
    """Return a picture with a soft spot at each point: two red, one green, two blue."""
    y, x = np.mgrid[:side, :side]
    pixels = np.zeros((side, side, 3))
    for (px, py), channel in zip(points, (0, 0, 1, 2, 2), strict=True):
        pixels[..., channel] += 255 * np.exp(-((x - px) ** 2 + (y - py) ** 2) / radius**2)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def centres(image: Image.Image, near: Points, reach: int) -> NDArray[np.float64]:
    """Return the centre of mass of the spot near each of the points."""
    pixels = np.asarray(image, np.float64)
    found = []
    for (px, py), channel in zip(near, (0, 0, 1, 2, 2), strict=True):
        x0, y0 = round(px) - reach, round(py) - reach
        part = pixels[max(y0, 0) : y0 + 2 * reach + 1, max(x0, 0) : x0 + 2 * reach + 1, channel]
        y, x = np.mgrid[: part.shape[0], : part.shape[1]]
        found.append(
            ((part * x).sum() / part.sum() + max(x0, 0), (part * y).sum() / part.sum() + max(y0, 0))
        )
    return np.array(found)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scale", "degrees", "size"),
    [
        (0.4, -20.0, 112), (1.0, 0.0, 128), (1.0, 130.0, 112), (1.5, 40.0, 112), (2.5, -20.0, 112),
        (2.5, 0.0, 224), (7.3, 170.0, 128), (7.3, 3.0, 112), (12.0, -70.0, 112),
    ],
)  # fmt: skip
def test_landmarks_land_on_the_template(scale: float, degrees: float, size: int) -> None:
    middle = moved(TEMPLATE - TEMPLATE.mean(0), scale, degrees, (0, 0))
    side = int(130 * scale) + 40
    points = middle + side / 2 + 0.3
    photo = blobs(points, side, 4 * scale)
    targets = TEMPLATE * size / 112
    transform = fit_similarity(points, targets)
    assert transform.error < 1e-9
    assert transform.degrees == pytest.approx(degrees)
    assert transform.scale == pytest.approx(size / 112 / scale)
    assert not transform.mirrored
    face = warp(photo, transform, size)
    assert face.size == (size, size)
    distances = np.linalg.norm(centres(face, targets, size // 12) - targets, axis=1)
    assert distances.max() < 0.15  # of a pixel


def test_the_fit_is_umeyamas() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        points = moved(TEMPLATE, rng.uniform(0.2, 9), rng.uniform(-180, 180), (5, -7))
        points += rng.normal(0, 5, (5, 2))
        transform = fit_similarity(points, TEMPLATE)
        matrix = transform.matrix
        np.testing.assert_allclose(matrix, umeyama(points, TEMPLATE), atol=1e-9)
        error = points @ matrix[:, :2].T + matrix[:, 2] - TEMPLATE
        assert transform.error == pytest.approx(math.sqrt((error**2).sum(1).mean()))


def test_a_face_at_its_place_stays_as_it_is() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (112, 112, 3), np.uint8)
    face = warp(Image.fromarray(pixels), fit_similarity(TEMPLATE, TEMPLATE), 112)
    np.testing.assert_array_equal(np.asarray(face), pixels)


def test_a_whole_shift_copies_pixels_and_leaves_black_outside() -> None:
    pixels = np.random.default_rng(0).integers(1, 256, (120, 120, 3), np.uint8)
    face = np.asarray(warp(Image.fromarray(pixels), fit_similarity(TEMPLATE + 20, TEMPLATE), 112))
    difference = face[:100, :100].astype(np.int64) - pixels[20:, 20:]
    assert abs(difference).max() <= 1  # Pillow cuts fractions off, here those of rounding errors
    assert not face[101:].any()
    assert not face[:, 101:].any()


@pytest.mark.parametrize("step", [2.5, 4.0, 9.0, 33.0])
def test_stripes_finer_than_a_pixel_become_grey(step: float) -> None:
    side = int(112 * step)
    stripes = np.zeros((side, side), np.uint8)
    stripes[:, ::2] = 255
    photo = Image.fromarray(stripes).convert("RGB")
    face = np.asarray(warp(photo, fit_similarity(TEMPLATE * step, TEMPLATE), 112), np.float64)
    assert abs(face[8:-8, 8:-8] - 127.5).max() < 32


def test_mirrored_landmarks_are_noticed() -> None:
    swapped = TEMPLATE[[1, 0, 2, 4, 3]]
    assert fit_similarity(swapped, TEMPLATE).mirrored
    assert fit_similarity(TEMPLATE * (-1, 1) + (112, 0), TEMPLATE).mirrored


@pytest.mark.parametrize(
    "points",
    [
        np.full((5, 2), 7.0),
        TEMPLATE / 112,
        np.where(TEMPLATE > 90, np.nan, TEMPLATE),
        np.where(TEMPLATE > 90, 1e300, TEMPLATE),
    ],
    ids=["all the same", "fractions of the sides", "not finite", "no pixels"],
)
def test_points_without_a_direction_are_refused(points: Points) -> None:
    with pytest.raises(AlignmentError, match=re.escape(str(points.tolist()))):
        fit_similarity(points, TEMPLATE)


def bilinear(pixels: NDArray[np.float64], x: float, y: float) -> NDArray[np.float64]:
    """Return a bilinear sample, black outside."""
    total = np.zeros(3)
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < pixels.shape[0] and 0 <= column < pixels.shape[1]:
                total += (1 - abs(y - row)) * (1 - abs(x - column)) * pixels[row, column]
    return total


@pytest.mark.parametrize("shift", [(12, -9), (-150, 5), (60, 40), (900, 0)])
def test_the_published_crop_takes_one_bilinear_sample_per_pixel(shift: tuple[float, float]) -> None:
    pixels = np.random.default_rng(4).integers(0, 256, (70, 90, 3), np.uint8)
    transform = fit_similarity(moved(TEMPLATE, 0.9, 20, shift), TEMPLATE)
    face = np.asarray(warp_published(Image.fromarray(pixels), transform, 112), np.float64)
    (a, b, c), (d, e, f) = np.linalg.inv(np.vstack([transform.matrix, [0, 0, 1]]))[:2]
    for y in range(112):
        for x in range(y % 9, 112, 9):
            sample = bilinear(pixels.astype(float), a * x + b * y + c, d * x + e * y + f)
            assert abs(face[y, x] - sample).max() <= 0.5 + 1e-9


@pytest.mark.parametrize(
    "face", json.loads((FOLDER / "expected.json").read_text()), ids=lambda face: str(face["image"])
)
def test_the_published_crop_is_that_of_the_reference(face: dict[str, Any]) -> None:
    rows = (FOLDER / "name_5pts_score.txt").read_text().splitlines()
    cells = next(row.split() for row in rows if row.startswith(face["image"]))
    transform = fit_similarity(np.array(cells[1:11], np.float64).reshape(5, 2), TEMPLATE)
    np.testing.assert_allclose(transform.matrix, face["matrix"], rtol=0, atol=1e-4)
    with Image.open(FOLDER / face["image"]) as image, Image.open(FOLDER / face["aligned"]) as want:
        found = np.asarray(crop_face(image, transform, 112, "published"), np.int64)
        difference = abs(found - np.asarray(want))
        smooth = np.asarray(crop_face(image, transform, 112), np.int64)
    assert difference.max() <= 1
    assert difference.mean() < 0.001
    np.testing.assert_allclose(found.mean((0, 1)), face["mean_rgb"], atol=0.001)
    if transform.scale < 0.5:  # a large face: the two crops differ in more than their last bits
        assert abs(smooth - found).mean() > 10
