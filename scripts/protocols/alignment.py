"""The part `alignment/`: the similarity of five landmarks and the published crop."""

from pathlib import Path

import numpy as np
from PIL import Image

from data.alignment import TEMPLATE, TEMPLATE_SIZE, crop_face, fit_similarity
from eval.protocols.ijb_files import read_landmarks
from scripts.protocols.compare import Json, read_json

MATRIX_TOLERANCE = 1e-4
MOST_LEVELS, MEAN_LEVELS = 1, 0.001  # of OpenCV 5


def check(folder: Path) -> list[str]:
    """Return a line for each matrix and crop of `expected.json` that differs."""
    landmarks = read_landmarks(folder / "name_5pts_score.txt")
    points_of = dict(zip(landmarks.images, landmarks.points_n52, strict=True))
    lines = []
    for face in read_json(folder / "expected.json"):
        lines += _check_face(folder, face, points_of[face["image"]])
    return lines


def _check_face(folder: Path, expected: Json, points: np.ndarray) -> list[str]:
    where = f"{folder.name}/{expected['image']}"
    transform = fit_similarity(points, TEMPLATE)
    known = {"image", "matrix", "aligned", "mean_rgb"}
    lines = [f"{where}: unknown key {key}" for key in expected if key not in known]
    difference = np.abs(transform.matrix - expected["matrix"]).max()
    if difference > MATRIX_TOLERANCE:
        lines.append(f"{where}/matrix: differs by {difference}")
    with Image.open(folder / expected["image"]) as image:
        face = crop_face(image.convert("RGB"), transform, TEMPLATE_SIZE, "published")
    with Image.open(folder / expected["aligned"]) as image:
        levels = np.abs(np.asarray(face, np.int64) - np.asarray(image.convert("RGB"), np.int64))
    if levels.max() > MOST_LEVELS or levels.mean() >= MEAN_LEVELS:
        lines.append(
            f"{where}/aligned: differs by up to {levels.max()} levels, {levels.mean():.5f} in the "
            f"mean; expected {MOST_LEVELS} and {MEAN_LEVELS}"
        )
    means = np.asarray(face, np.float64).mean(axis=(0, 1))
    if np.abs(means - expected["mean_rgb"]).max() > MEAN_LEVELS * 3:
        lines.append(f"{where}/mean_rgb: expected {expected['mean_rgb']}, found {means.tolist()}")
    return lines
