import csv
import os
import re
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.alignment import TEMPLATE, AlignmentError, Points, fit_similarity, warp, warp_published
from data.files import OutputFolderError
from data.tools.align import Crop, align_folder, read_landmarks
from data.tools.findings import Findings
from tests.data.test_alignment import blobs, centres, moved

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


def align(tmp_path: Path, *faces: tuple[str, Points], **crop: Any) -> tuple[int, Findings]:
    landmarks = write_list(tmp_path, *faces)
    return align_folder(landmarks, tmp_path / "photos", tmp_path / "faces", Crop(**crop))


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
    ("content", "found"),
    [
        (b"a.jpg,1,2,3\n", "line 1: .*'a.jpg,1,2,3'.* path,x1,y1"),
        (b"a.jpg,1,2,3,4,5,6,7,8,9,0\nb.jpg,1,2,3,4,5,6,7,8,9,x\n", "line 2"),
        (b"p,1,2,3,4,5,6,7,8,9,x\nb.jpg,1,2,3,4,5,6,7,8,9,x\n", "line 2"),
        (b"path,a,b,c,d,e,f,g,h,i,j\n", ""),
        (b"", ""),
        (b"\xff\xd8\xff", "0xff"),
    ],
)
def test_other_lists_are_refused(tmp_path: Path, content: bytes, found: str) -> None:
    (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(AlignmentError, match=rf"x\.csv.*{found}"):
        read_landmarks(tmp_path / "x.csv")


def test_a_path_that_no_file_has_is_refused_with_its_line(tmp_path: Path) -> None:
    for path in ("a\0.jpg", "\x1b[31m.jpg", "x" * 256):
        (tmp_path / "x.csv").write_text(f"a.jpg{',1' * 10}\n{path}{',1' * 10}\n")
        with pytest.raises(AlignmentError, match=r"x\.csv, line 2: ") as caught:
            read_landmarks(tmp_path / "x.csv")
        assert str(caught.value).isprintable()


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
        crop = Crop(quality=quality)
        align_folder(
            write_list(tmp_path, ("a/one.png", PLACE)), photos, tmp_path / str(quality), crop
        )
        sizes.append((tmp_path / str(quality) / "a" / "one.jpg").stat().st_size)
    assert sizes[0] < sizes[1] / 2


def test_the_published_crop_is_an_option(photos: Path, tmp_path: Path) -> None:
    align(tmp_path, ("a/one.png", PLACE), format="png", method="published")
    with Image.open(photos / "a" / "one.png") as photo:
        expected = warp_published(photo, fit_similarity(PLACE, TEMPLATE), 112)
    with Image.open(tmp_path / "faces" / "a" / "one.png") as face:
        np.testing.assert_array_equal(np.asarray(face), np.asarray(expected))


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


def test_everything_that_is_left_out_is_reported(photos: Path, tmp_path: Path) -> None:
    content = (photos / "a" / "one.png").read_bytes()
    (photos / "cut.png").write_bytes(content[: len(content) // 2])
    (photos / "text.jpg").write_bytes(b"no image")
    (photos / "unlisted.jpeg").write_bytes(b"")
    Image.new("I;16", (SIDE, SIDE)).save(photos / "deep.png")
    bad = np.full((5, 2), np.nan)
    os.mkfifo(photos / "pipe")
    names = ["cut.png", "text.jpg", "absent.jpg", "deep.png", "../photos/a/one.png", "/etc/a.png"]
    names.append("pipe")
    written, findings = align(
        tmp_path, *((name, PLACE) for name in names), ("a/one.png", bad),
        ("a/one.png", TEMPLATE / 112), ("a/one.png", PLACE),
    )  # fmt: skip
    assert (written, findings.clean) == (1, False)
    report = {item["kind"]: item for item in findings.to_list()}
    assert [place["file"] for place in report["photo"]["places"]] == names
    assert [place["line"] for place in report["landmarks"]["places"]] == [8, 9]
    assert [place["file"] for place in report["unlisted"]["places"]] == ["unlisted.jpeg"]
    assert set(report) == {"photo", "landmarks", "unlisted"}
    details = [place["detail"] for place in report["photo"]["places"]]
    assert details[2].startswith("FileNotFoundError: ")
    assert details[3].startswith("AlignmentError: mode I;16 ")
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


def test_the_tilt_limit_is_an_option(photos: Path, tmp_path: Path) -> None:
    _, findings = align(tmp_path, ("a/one.png", PLACE), max_tilt=9.5)
    assert set(kinds(findings)) == {"tilted"}
    assert " 10 " in kinds(findings)["tilted"]


def test_orientation_tags_cause_a_warning(photos: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = BytesIO()
    blobs(PLACE, SIDE, 5).save(stream, "JPEG", exif=exif)
    (photos / "turned.jpg").write_bytes(stream.getvalue())
    _, findings = align(tmp_path, ("turned.jpg", PLACE), ("a/one.png", PLACE))
    assert set(kinds(findings)) == {"orientation"}
    assert kinds(findings)["orientation"].endswith(" 6")


def test_threads_write_the_same(photos: Path, tmp_path: Path) -> None:
    landmarks = write_list(tmp_path, *(("a/one.png", PLACE + shift) for shift in range(9)))
    steps: list[tuple[int, int]] = []
    for threads in (1, 3):
        align_folder(
            landmarks, photos, tmp_path / str(threads), Crop(), threads=threads,
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
    for options, named in (
        ({"size": 8}, "size is 8: .* 16 to 4096"),
        ({"format": "bmp"}, "format is 'bmp': .* jpg or png"),
        ({"quality": 0}, "quality is 0: .* 1 to 100"),
        ({"max_tilt": 0}, "max_tilt is 0"),
        ({"method": "sharp"}, "method is 'sharp': .* antialiased or published"),
    ):
        with pytest.raises(AlignmentError, match=named):
            Crop(**options)
    landmarks = write_list(tmp_path, ("a/one.png", PLACE))
    with pytest.raises(AlignmentError, match=str(tmp_path / "absent")):
        align_folder(landmarks, tmp_path / "absent", tmp_path / "faces", Crop())
    with pytest.raises(AlignmentError, match="threads is 0"):
        align_folder(landmarks, photos, tmp_path / "faces", Crop(), threads=0)
    with pytest.raises(OutputFolderError, match=re.escape(str(photos))):
        align_folder(landmarks, photos, photos, Crop())
