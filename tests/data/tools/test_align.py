import csv
import re
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.files import OutputFolderError
from data.tools.align import Cut, align_folder, read_landmarks
from data.tools.alignment import TEMPLATE, AlignmentError, Points, fit_similarity, warp
from data.tools.findings import Findings
from tests.data.tools.test_alignment import blobs, centres, moved

SIDE = 200
PLACE = moved(TEMPLATE, 1.4, 10, (30, 5))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos" / "a").mkdir(parents=True)
    blobs(PLACE, SIDE, 5).save(tmp_path / "photos" / "a" / "one.png")
    return tmp_path / "photos"


def write_list(folder: Path, *faces: tuple[str, Points], names: bool = False) -> Path:
    path = folder / "landmarks.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        if names:
            writer.writerow(["path", *(f"{axis}{n}" for n in range(1, 6) for axis in "xy")])
        writer.writerows([name, *points.reshape(-1).tolist()] for name, points in faces)
    return path


def align(tmp_path: Path, *faces: tuple[str, Points], **cut: Any) -> tuple[int, Findings]:
    landmarks = write_list(tmp_path, *faces)
    return align_folder(landmarks, tmp_path / "photos", tmp_path / "faces", Cut(**cut))


def kinds(findings: Findings) -> dict[str, str]:
    """Return the first text of each kind of finding."""
    return {item["kind"]: item["places"][0]["detail"] for item in findings.to_list()}


@pytest.mark.parametrize("names", [True, False])
def test_a_list_with_and_without_names(tmp_path: Path, names: bool) -> None:
    path = write_list(tmp_path, ("a/ä, b.jpg", PLACE), ("c.jpg", TEMPLATE), names=names)
    first, second = read_landmarks(path)
    assert (first.line, first.path, second.path) == (1 + names, "a/ä, b.jpg", "c.jpg")
    np.testing.assert_array_equal(first.points, PLACE)
    np.testing.assert_array_equal(second.points, TEMPLATE)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a.jpg,1,2,3\n", "line 1: found 'a.jpg,1,2,3', expected path,x1,y1"),
        (b"a.jpg,1,2,3,4,5,6,7,8,9,0\nb.jpg,1,2,3,4,5,6,7,8,9,x\n", "line 2"),
        (b"p,1,2,3,4,5,6,7,8,9,x\nb.jpg,1,2,3,4,5,6,7,8,9,x\n", "line 2"),
        (b"path,a,b,c,d,e,f,g,h,i,j\n", "lists no faces"),
        (b"", "lists no faces"),
        (b"\xff\xd8\xff", "cannot be read as CSV"),
    ],
)
def test_other_lists_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(AlignmentError, match=rf"x\.csv.*{message}"):
        read_landmarks(tmp_path / "x.csv")


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_faces_are_written_with_their_landmarks_in_place(
    photos: Path, tmp_path: Path, suffix: str
) -> None:
    written, findings = align(tmp_path, ("a/one.png", PLACE), size=128, format=suffix)
    assert (written, findings.clean, findings.to_list()) == (1, True, [])
    with Image.open(tmp_path / "faces" / "a" / f"one.{suffix}") as face:
        assert (face.size, face.format) == ((128, 128), {"jpg": "JPEG", "png": "PNG"}[suffix])
        targets = TEMPLATE * 128 / 112
        assert np.linalg.norm(centres(face, targets, 9) - targets, axis=1).max() < 0.5
        if suffix == "png":
            with Image.open(photos / "a" / "one.png") as photo:
                expected = warp(photo, fit_similarity(PLACE, targets), 128)
            np.testing.assert_array_equal(np.asarray(face), np.asarray(expected))


def test_the_quality_is_that_of_the_jpeg(photos: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    Image.fromarray(noise).save(photos / "a" / "one.png")
    sizes = []
    for quality in (50, 95):
        cut = Cut(quality=quality)
        align_folder(
            write_list(tmp_path, ("a/one.png", PLACE)), photos, tmp_path / str(quality), cut
        )
        sizes.append((tmp_path / str(quality) / "a" / "one.jpg").stat().st_size)
    assert sizes[0] < sizes[1] / 2


def test_every_face_of_a_photo_gets_a_file(photos: Path, tmp_path: Path) -> None:
    blobs(PLACE, SIDE, 5).save(photos / "a" / "one.jpg")
    names = ["a/one.png", "a/one.png", "a/one.jpg"]
    written, findings = align(tmp_path, *((name, PLACE) for name in names))
    assert (written, findings.to_list()) == (3, [])
    files = sorted(path.name for path in (tmp_path / "faces" / "a").iterdir())
    assert files == ["one-2.jpg", "one-3.jpg", "one.jpg"]


def test_grey_photos_become_colour_and_transparent_ones_opaque(
    photos: Path, tmp_path: Path
) -> None:
    for mode, name in (("L", "grey.png"), ("RGBA", "alpha.png"), ("P", "palette.png")):
        blobs(PLACE, SIDE, 5).convert(mode).save(photos / name)
    faces = ((name, PLACE) for name in ("grey.png", "alpha.png", "palette.png", "a/one.png"))
    written, findings = align(tmp_path, *faces)
    assert (written, findings.to_list()) == (4, [])
    with Image.open(tmp_path / "faces" / "grey.jpg") as face:
        assert face.mode == "RGB"


def test_nothing_is_passed_over_in_silence(photos: Path, tmp_path: Path) -> None:
    content = (photos / "a" / "one.png").read_bytes()
    (photos / "cut.png").write_bytes(content[: len(content) // 2])
    (photos / "text.jpg").write_bytes(b"no image")
    (photos / "unlisted.jpeg").write_bytes(b"")
    Image.new("I;16", (SIDE, SIDE)).save(photos / "deep.png")
    bad = np.full((5, 2), np.nan)
    names = ["cut.png", "text.jpg", "absent.jpg", "deep.png", "../photos/a/one.png", "/etc/a.png"]
    written, findings = align(
        tmp_path, *((name, PLACE) for name in names), ("a/one.png", bad),
        ("a/one.png", TEMPLATE / 112), ("a/one.png", PLACE),
    )  # fmt: skip
    assert (written, findings.clean) == (1, False)
    report = {item["kind"]: item for item in findings.to_list()}
    assert [place["file"] for place in report["photo"]["places"]] == names
    assert [place["line"] for place in report["landmarks"]["places"]] == [7, 8]
    assert [place["file"] for place in report["unlisted"]["places"]] == ["unlisted.jpeg"]
    assert set(report) == {"photo", "landmarks", "unlisted"}
    details = [place["detail"] for place in report["photo"]["places"]]
    assert "No such file" in details[2]
    assert "mode I;16 has more than 8 bits" in details[3]
    assert details[4:] == ["the path leads out of the folder of photos"] * 2
    assert len(list((tmp_path / "faces").rglob("*.jpg"))) == 1


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        (PLACE[[1, 0, 2, 4, 3]], "mirrored"),
        (moved(TEMPLATE, 1, 60, (100, 20)), "tilted"),
        (PLACE[[0, 1, 3, 2, 4]], "misfit"),
        (moved(PLACE, 1, 0, (-90, 0)), "outside"),
        (moved(PLACE, 1, 0, (0, 70)), "outside"),
    ],
)
def test_doubtful_faces_are_written_with_a_warning(
    photos: Path, tmp_path: Path, points: Points, expected: str
) -> None:
    written, findings = align(tmp_path, ("a/one.png", points))
    assert (written, findings.clean) == (1, False)
    assert expected in kinds(findings)
    assert "photo" not in kinds(findings)


def test_the_tilt_limit_is_the_users(photos: Path, tmp_path: Path) -> None:
    _, findings = align(tmp_path, ("a/one.png", PLACE), max_tilt=9.5)
    assert kinds(findings) == {"tilted": "tilted by 10 degrees"}


def test_orientation_tags_are_warned_of(photos: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = BytesIO()
    blobs(PLACE, SIDE, 5).save(stream, "JPEG", exif=exif)
    (photos / "turned.jpg").write_bytes(stream.getvalue())
    _, findings = align(tmp_path, ("turned.jpg", PLACE), ("a/one.png", PLACE))
    assert kinds(findings) == {"orientation": "its orientation tag is 6"}


def test_threads_write_the_same(photos: Path, tmp_path: Path) -> None:
    landmarks = write_list(tmp_path, *(("a/one.png", PLACE + shift) for shift in range(9)))
    steps: list[tuple[int, int]] = []
    for threads in (1, 3):
        align_folder(
            landmarks, photos, tmp_path / str(threads), Cut(), threads=threads,
            progress=lambda done, total: steps.append((done, total)),
        )  # fmt: skip
    one, three = (
        {path.name: path.read_bytes() for path in (tmp_path / name / "a").iterdir()}
        for name in ("1", "3")
    )
    assert one == three
    assert len(set(one.values())) == 9
    assert steps == [(done, 9) for done in range(1, 10)] * 2


def test_what_makes_no_sense_is_refused(photos: Path, tmp_path: Path) -> None:
    for options, message in (
        ({"size": 8}, "size is 8: expected 16 to 4096"),
        ({"format": "bmp"}, "format is 'bmp': expected jpg or png"),
        ({"quality": 0}, "quality is 0: expected 1 to 100"),
        ({"max_tilt": 0}, "max_tilt is 0"),
    ):
        with pytest.raises(AlignmentError, match=message):
            Cut(**options)
    landmarks = write_list(tmp_path, ("a/one.png", PLACE))
    with pytest.raises(AlignmentError, match="absent is no folder"):
        align_folder(landmarks, tmp_path / "absent", tmp_path / "faces", Cut())
    with pytest.raises(AlignmentError, match="threads is 0"):
        align_folder(landmarks, photos, tmp_path / "faces", Cut(), threads=0)
    with pytest.raises(OutputFolderError, match=re.escape(str(photos))):
        align_folder(landmarks, photos, photos, Cut())
