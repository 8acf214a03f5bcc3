import csv
import json
import os
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from data.alignment import TEMPLATE, fit_similarity, warp
from data.contact_sheet import MARGIN, SIDE
from data.detection.choice import Choice
from data.detection.detections import DetectorError
from data.detection.job import DetectionError, Files, Outcome, cut_faces
from data.detection.sheet import write_sheet
from data.files import OutputFolderError
from data.tools.align import Crop
from tests.data.detection.models import FACE, POINTS, bright_cells

CELL = 8  # pixels of a cell in a photo of 64x64


@pytest.fixture
def detector(tmp_path: Path) -> Path:
    return bright_cells(tmp_path / "cells.onnx")


def draw(*faces: tuple[int, int], scale: int = 4) -> Image.Image:
    """Return a photo with a face at each (column, row), scaled up from 64x64 pixels."""
    rng = np.random.default_rng(1)
    photo = Image.fromarray(rng.integers(0, 120, (64 * scale, 64 * scale, 3), np.uint8))
    side = CELL * scale
    for column, row in faces:
        photo.paste((255, 255, 255), (column * side, row * side, *((column + 1) * side,
                                                                  (row + 1) * side)))  # fmt: skip
    return photo


def save(path: Path, photo: Image.Image) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    photo.save(path)
    return path


def run(tmp_path: Path, detector: Path, choice: Choice | None = None, **options: object) -> Outcome:
    return cut_faces(
        tmp_path / "photos", tmp_path / "faces", Crop(format="png"), choice or Choice(),
        detector=detector, **{"processes": 1, **options},  # type: ignore[arg-type]
    )  # fmt: skip


def rows(tmp_path: Path) -> list[dict[str, str]]:
    with (tmp_path / "faces.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_face_is_cut_from_the_full_photo(tmp_path: Path, detector: Path) -> None:
    photo = draw((4, 4), scale=20)  # 1280 pixels: searched in a copy of 1024
    save(tmp_path / "photos" / "a" / "one.png", photo)
    outcome = run(tmp_path, detector)
    assert outcome == Outcome(1, {"written": 1}, 0)
    points = ((POINTS + 4 * CELL) * 16 + 0.5) * 1.25 - 0.5  # by way of the copy
    expected = warp(photo, fit_similarity(points, TEMPLATE), 112)
    with Image.open(tmp_path / "faces" / "a" / "one.png") as face:
        difference = np.asarray(face).astype(int) - np.asarray(expected).astype(int)
    assert abs(difference).mean() < 1
    (cells,) = rows(tmp_path)
    assert (cells["photo"], cells["reason"], cells["face"]) == (
        "a/one.png", "written", "a/one.png"
    )  # fmt: skip
    found = [float(cells[f"{axis}{n}"]) for n in range(1, 6) for axis in "xy"]
    np.testing.assert_allclose(np.reshape(found, (5, 2)), points, atol=0.06)
    box = [float(cells[name]) for name in ("left", "top", "right", "bottom")]
    np.testing.assert_allclose(
        box, [20 * (4 * CELL + s * FACE / 2) for s in (-1, -1, 1, 1)], atol=0.1
    )


def test_every_photo_has_a_reason(tmp_path: Path, detector: Path) -> None:
    photos = tmp_path / "photos"
    save(photos / "good.png", draw((4, 4)))
    save(photos / "nobody.png", draw())
    save(photos / "tiny.png", draw((4, 4), scale=1))
    save(photos / "edge.png", draw((0, 4)))
    save(photos / "two.png", draw((2, 4), (6, 4)))
    save(photos / "wide.png", Image.new("RGB", (2000, 1)))
    content = (photos / "good.png").read_bytes()
    (photos / "cut.png").write_bytes(content[: len(content) // 2])
    (photos / "text.jpg").write_bytes(b"hello")
    (photos / "notes.txt").write_bytes(b"hello")
    (photos / "x\n.png").write_bytes(content)
    (photos / f"{'x' * 210}.png").write_bytes(content)
    (photos / ".hidden.png").write_bytes(content)
    os.mkfifo(photos / "pipe.jpg")
    outcome = run(tmp_path, detector, Choice("refuse"))
    reasons = {cells["photo"][:9]: cells["reason"] for cells in rows(tmp_path)}
    assert reasons == {
        "good.png": "written", "nobody.pn": "no_face", "tiny.png": "tiny",
        "edge.png": "incomplete", "two.png": "several", "wide.png": "no_face",
        "cut.png": "unreadable", "text.jpg": "unreadable", "pipe.jpg": "unreadable",
        "x\n.png": "name", "xxxxxxxxx": "name",
    }  # fmt: skip
    assert outcome.photos == 11
    assert outcome.other_files == 1
    assert sum(outcome.reasons.values()) == len(rows(tmp_path)) == 12
    assert [path.name for path in (tmp_path / "faces").iterdir()] == ["good.png"]


def test_who_has_no_face_gets_no_folder(tmp_path: Path, detector: Path) -> None:
    save(tmp_path / "photos" / "ann" / "1.png", draw((4, 4)))
    save(tmp_path / "photos" / "ann" / "2.png", draw())
    save(tmp_path / "photos" / "bob" / "1.png", draw())
    save(tmp_path / "photos" / "bob" / "2.png", draw((4, 4), scale=1))
    save(tmp_path / "photos" / "nobody.png", draw())
    for _ in range(2):  # the second run knows it from the list
        assert run(tmp_path, detector).faceless == ("bob",)
        assert [path.name for path in (tmp_path / "faces").iterdir()] == ["ann"]


def test_a_blurred_face_is_listed_and_kept_on_request(tmp_path: Path, detector: Path) -> None:
    x, y = np.meshgrid(np.arange(256), np.arange(256))
    glow = 250 * np.exp(-((x - 144) ** 2 + (y - 144) ** 2) / 2 / 30**2)  # no edge anywhere
    save(tmp_path / "photos" / "one.png", Image.fromarray(glow.astype(np.uint8)))
    assert run(tmp_path, detector).reasons == {"blurred": 1}
    assert 0 < float(rows(tmp_path)[0]["sharpness"]) < Choice().min_sharpness
    assert not any((tmp_path / "faces").iterdir())
    for path in (tmp_path / "faces.csv", tmp_path / "faces.json"):
        path.unlink()
    assert run(tmp_path, detector, Choice(keep=("blurred",))).reasons == {"written": 1}


def test_all_faces_get_names_of_their_own(tmp_path: Path, detector: Path) -> None:
    for name in ("one.png", "one.tif", "one_face2.png"):
        save(tmp_path / "photos" / name, draw((2, 4), (6, 4)))
    assert run(tmp_path, detector, Choice("all")).reasons == {"written": 6}
    names = {cells["face"] for cells in rows(tmp_path)}
    assert names == {path.name for path in (tmp_path / "faces").iterdir()}
    assert len(names) == 6


def test_a_run_goes_on_where_it_stopped(
    tmp_path: Path, detector: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        save(tmp_path / "photos" / f"{number}.png", draw((4, 4)))
    whole = run(tmp_path, detector)
    text = (tmp_path / "faces.csv").read_bytes()
    lines = text.splitlines(keepends=True)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "faces").iterdir()}
    # Killed in the row of the third photo: it is redone, and so is the one before, which may lack
    # faces, but for the face that is listed.
    (tmp_path / "faces.csv").write_bytes(b"".join(lines[:3]) + lines[3][:9])
    steps: list[tuple[int, int]] = []
    again = run(tmp_path, detector, progress=lambda done, total: steps.append((done, total)))
    assert again == whole
    assert (tmp_path / "faces.csv").read_bytes() == text
    assert steps == [(2, 5), (3, 5), (4, 5), (5, 5)]
    same = {path.name for path, time in times.items() if path.stat().st_mtime_ns == time}
    assert same == {"0.png", "1.png"}
    (tmp_path / "faces.csv").write_bytes(text + b'"x\n.pn')  # killed in a name of two lines
    assert run(tmp_path, detector) == whole
    # New photos are added.
    save(tmp_path / "photos" / "9.png", draw())
    assert run(tmp_path, detector).reasons == {"written": 5, "no_face": 1}


def test_faces_that_were_moved_are_not_written_again(
    tmp_path: Path, detector: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ann/1.png", "bob/1.png"):
        save(tmp_path / "photos" / name, draw((2, 4), (6, 4)))
    whole = run(tmp_path, detector, Choice("all"))
    assert whole.reasons == {"written": 4}
    text = (tmp_path / "faces.csv").read_text()
    (tmp_path / "faces" / "bob").rename(tmp_path / "held_out")
    assert run(tmp_path, detector, Choice("all")) == whole
    assert not (tmp_path / "faces" / "bob").exists()
    # Nor after a run that was stopped before its first photo.
    with monkeypatch.context() as patched:
        patched.setattr("data.detection.job.Cutter", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, detector, Choice("all"))
    assert run(tmp_path, detector, Choice("all")) == whole
    assert not (tmp_path / "faces" / "bob").exists()
    assert (tmp_path / "faces.csv").read_text() == text
    # Killed before the second face was listed: that one alone is written.
    (tmp_path / "faces.csv").write_text("".join(text.splitlines(keepends=True)[:-1]))
    save(tmp_path / "photos" / "ann" / "0.png", draw())  # sorted before, and done after
    run(tmp_path, detector, Choice("all"))
    assert (tmp_path / "faces.csv").read_text().startswith(text)
    assert len(rows(tmp_path)) == 5
    assert [path.name for path in (tmp_path / "faces" / "bob").iterdir()] == ["1_face2.png"]


def test_a_photo_that_comes_later_takes_no_other_one_s_name(tmp_path: Path, detector: Path) -> None:
    photos = tmp_path / "photos" / "ann"
    for name in ("7.tiff", "9.tiff"):
        save(photos / name, draw((4, 4)))
    run(tmp_path, detector)
    before = (tmp_path / "faces" / "ann" / "7.png").read_bytes()
    for name in ("7.bmp", "9.bmp"):  # which sort before those; the last photo is done again
        save(photos / name, draw((2, 3)))
    run(tmp_path, detector)
    assert (tmp_path / "faces" / "ann" / "7.png").read_bytes() == before
    assert {cells["photo"]: cells["face"] for cells in rows(tmp_path)} == {
        "ann/7.tiff": "ann/7.png", "ann/9.tiff": "ann/9.png",
        "ann/7.bmp": "ann/7.bmp.png", "ann/9.bmp": "ann/9.bmp.png",
    }  # fmt: skip


def test_the_faces_of_another_folder_of_photos_are_refused(tmp_path: Path, detector: Path) -> None:
    save(tmp_path / "photos" / "a.png", draw((4, 4)))
    run(tmp_path, detector)
    (tmp_path / "photos").rename(tmp_path / "others")
    with pytest.raises(OutputFolderError, match="photos"):
        cut_faces(
            tmp_path / "others", tmp_path / "faces", Crop(format="png"), Choice(),
            detector=detector,
        )  # fmt: skip


def test_another_run_s_folder_is_refused(tmp_path: Path, detector: Path) -> None:
    save(tmp_path / "photos" / "one.png", draw((4, 4)))
    run(tmp_path, detector)
    with pytest.raises(OutputFolderError, match="'policy': 'all'"):
        run(tmp_path, detector, Choice("all"))
    (tmp_path / "faces.json").write_text("{")
    with pytest.raises(OutputFolderError, match=r"faces\.json"):
        run(tmp_path, detector)
    (tmp_path / "faces.json").unlink()
    with pytest.raises(OutputFolderError, match=r"faces\.json"):
        run(tmp_path, detector)


def test_what_cannot_be_started_is_refused(tmp_path: Path, detector: Path) -> None:
    with pytest.raises(DetectionError, match="photos"):
        run(tmp_path, detector)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "x.txt").write_bytes(b"")
    with pytest.raises(DetectionError, match="no photos"):
        run(tmp_path, detector)
    save(tmp_path / "photos" / "one.png", draw((4, 4)))
    with pytest.raises(DetectionError, match="small_side is 9"):
        run(tmp_path, detector, small_side=9)
    detector.write_bytes(b"no model")
    with pytest.raises(DetectorError):
        run(tmp_path, detector)
    assert not (tmp_path / "faces").exists()
    assert not (tmp_path / "faces.json").exists()


@pytest.mark.slow
def test_processes_write_the_same(tmp_path: Path, detector: Path) -> None:
    for number in range(7):
        save(tmp_path / "photos" / f"{number}.png", draw((number, 4)))
    results = []
    for processes in (1, 2):
        run(tmp_path, detector, processes=processes)
        results.append(
            (
                (tmp_path / "faces.csv").read_bytes(),
                {path.name: path.read_bytes() for path in (tmp_path / "faces").iterdir()},
            )
        )
        for path in (*(tmp_path / "faces").iterdir(), *tmp_path.glob("faces.*")):
            path.unlink()
    assert results[0] == results[1]
    assert not Files(tmp_path / "faces").lock.exists()


def test_the_sheet_shows_what_was_cut(tmp_path: Path, detector: Path) -> None:
    for number in range(12):
        save(tmp_path / "photos" / f"{number}.png", draw((4, 4)))
    run(tmp_path, detector)
    assert write_sheet(tmp_path / "faces", tmp_path / "sheet.png") == (12, 0)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert (sheet.format, sheet.width) == ("PNG", 10 * (SIDE + MARGIN) + MARGIN)
        with Image.open(tmp_path / "faces" / "0.png") as face:
            box = (MARGIN, MARGIN, MARGIN + SIDE, MARGIN + SIDE)
            assert sheet.crop(box).tobytes() == face.tobytes()


def test_the_sheet_leaves_out_faces_that_are_gone(tmp_path: Path, detector: Path) -> None:
    for number in range(3):
        save(tmp_path / "photos" / f"{number}.png", draw((4, 4)))
    run(tmp_path, detector)
    (tmp_path / "faces" / "1.png").unlink()
    assert write_sheet(tmp_path / "faces", tmp_path / "sheet.png") == (2, 1)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width == 2 * (SIDE + MARGIN) + MARGIN
    for number in (0, 2):
        (tmp_path / "faces" / f"{number}.png").unlink()
    assert write_sheet(tmp_path / "faces", tmp_path / "none.png") == (0, 3)
    assert not (tmp_path / "none.png").exists()


def test_settings_say_how_faces_were_made(tmp_path: Path, detector: Path) -> None:
    save(tmp_path / "photos" / "one.png", draw((4, 4)))
    run(tmp_path, detector, Choice(keep=("tiny", "blurred")))
    settings = json.loads((tmp_path / "faces.json").read_text())
    assert settings["detector"].startswith("cells.onnx ")
    assert settings["choice"]["keep"] == ["blurred", "tiny"]
    assert settings["crop"]["size"] == 112
