import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.demo.conditions import Shot
from data.demo.scenes.figure import draw_figure
from data.demo.scenes.folder import make_demo_photos, truth_file
from data.demo.scenes.scene import draw_scene
from data.detection.mtcnn import Mtcnn
from data.files import OutputFolderError

FRONTAL = Shot(1, "frontal", "adult")


def test_landmarks_scale_with_the_frame() -> None:
    small, large = (draw_figure(0, 3, FRONTAL, size) for size in (128, 256))
    assert not small.hidden
    assert small.yaw == large.yaw < 12.1
    np.testing.assert_allclose((small.points + 0.5) * 2, large.points + 0.5, atol=1.5)
    eye, other_eye, nose, corner, other_corner = large.points
    assert eye[0] < nose[0] < other_eye[0]
    assert corner[0] < nose[0] < other_corner[0]
    assert eye[1] < nose[1] < corner[1]
    assert large.inside[0, 0] == 0
    assert large.inside[int(nose[1]), int(nose[0])] == 1


def test_a_profile_hides_landmarks() -> None:
    found = draw_figure(0, 3, Shot(1, "profile", "adult"), 128)
    assert found.hidden
    assert found.yaw > 64


def test_the_nearer_person_hides_the_others() -> None:
    scene = draw_scene(0, 5, (3, FRONTAL), [(90, FRONTAL), (91, FRONTAL), (92, FRONTAL)])
    assert [face.identity for face in scene.faces] == [3, 90, 91, 92]
    assert scene.faces[0].visible
    spread = [np.ptp(face.points[:, 0]) for face in scene.faces]
    assert spread[0] == max(spread)
    again = draw_scene(0, 5, (3, FRONTAL), [(90, FRONTAL), (91, FRONTAL), (92, FRONTAL)])
    assert scene.image.tobytes() == again.image.tobytes()
    found = Mtcnn().detect(scene.image)  # what it finds is where the faces are said to be
    best = found.points[np.argmax(np.ptp(found.points[:, :, 0], axis=1))]
    eyes = np.linalg.norm(scene.faces[0].points[1] - scene.faces[0].points[0])
    assert np.linalg.norm(best - scene.faces[0].points, axis=1).mean() < 0.15 * eyes


@pytest.mark.slow
def test_a_folder_of_photos_and_who_is_in_them(tmp_path: Path) -> None:
    make_demo_photos(tmp_path / "photos", people=2, photos=2, first=7, processes=1)
    truth = json.loads(truth_file(tmp_path / "photos").read_text())
    files = sorted((tmp_path / "photos").rglob("*.jpg"))
    names = [file.relative_to(tmp_path / "photos").as_posix() for file in files]
    assert names == sorted(truth)
    assert names[0] == "person-00007/001.jpg"
    assert [len(truth[name]) for name in names] == [1, 2, 3, 4]
    assert [truth[name][0]["identity"] for name in names] == [7, 7, 8, 8]
    with Image.open(files[3]) as photo:  # the fourth lies on its side
        assert photo.getexif()[0x0112] == 6
        assert photo.size == (720, 960)
    points = np.array(truth[names[3]][0]["points"])
    assert points[:, 0].max() > 0
    with pytest.raises(OutputFolderError):
        make_demo_photos(tmp_path / "photos", people=1, photos=1)
    with pytest.raises(ValueError, match="people is 0"):
        make_demo_photos(tmp_path / "new", people=0, photos=1)
