import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from data.alignment import TEMPLATE
from scripts.align_faces import main
from tests.data.detection.models import bright_cells
from tests.data.detection.test_job import draw, save
from tests.data.tools.test_align import write_list
from tests.launch import ROOT


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (130, 130), (9, 99, 199)).save(tmp_path / "photos" / "one.png")
    write_list(tmp_path, ("one.png", TEMPLATE + 5))
    return tmp_path


def run(folder: Path, *options: object) -> int:
    paths = (folder / "landmarks.csv", folder / "photos", folder / "faces")
    return main([str(argument) for argument in (*paths, *options)])


def test_the_exit_code_is_1_if_there_is_something_to_do(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, "--size", 64, "--format", "png") == 0
    assert capsys.readouterr().out.startswith(f"{folder / 'faces'}: 1 faces of 64x64 ")
    with Image.open(folder / "faces" / "one.png") as face:
        assert face.getpixel((32, 32)) == (9, 99, 199)
    assert run(folder) == 2
    assert str(folder / "faces") in capsys.readouterr().err
    (folder / "faces" / "one.png").unlink()
    assert run(folder, "--crop", "published", "--format", "png") == 0
    (folder / "faces" / "one.png").unlink()
    write_list(folder, ("one.png", TEMPLATE + 5), ("absent.png", TEMPLATE))
    assert run(folder, "--report", folder / "report.json") == 1
    assert "absent.png, line 2:" in capsys.readouterr().out
    report = json.loads((folder / "report.json").read_text())
    assert (report["written"], report["clean"]) == (1, False)
    assert report["findings"][0]["places"][0]["file"] == "absent.png"


def find(tmp_path: Path, *options: object) -> int:
    detector = bright_cells(tmp_path / "cells.onnx")
    arguments = (tmp_path / "photos", tmp_path / "faces", "--detector", detector, "--threads", 1)
    return main([str(argument) for argument in (*arguments, *options)])


def test_without_a_list_faces_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "photos" / "one.png", draw((4, 4)))
    save(tmp_path / "photos" / "nobody.png", draw())
    assert find(tmp_path, "--sheet", tmp_path / "sheet.png", "--size", 128) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{tmp_path / 'faces'}: 1 faces of 128x128 pixels from 2 photos")
    assert "no_face: 1 " in said
    with Image.open(tmp_path / "faces" / "one.jpg") as face:
        assert face.size == (128, 128)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.format == "PNG"
    (tmp_path / "photos" / "text.jpg").write_bytes(b"hello")
    assert find(tmp_path, "--size", 128, "--report", tmp_path / "report.json") == 1
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["clean"], report["photos"]) == (False, 3)
    assert report["reasons"] == {"no_face": 1, "written": 1, "unreadable": 1}
    assert find(tmp_path, "--size", 64) == 2
    assert find(tmp_path, "--sheet", tmp_path / "sheet.jpg") == 2


def test_people_without_a_face_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(10):
        save(tmp_path / "photos" / f"{number:02}" / "1.png", draw())
    save(tmp_path / "photos" / "ann" / "1.png", draw((4, 4)))
    assert find(tmp_path) == 0
    assert "  10 sub-folders have no face, and are left out: 00, 01, " in capsys.readouterr().out
    for name in ("10", "\x1b"):
        save(tmp_path / "photos" / name / "1.png", draw())
    assert find(tmp_path) == 1
    said = capsys.readouterr().out
    assert "  12 sub-folders have no face, and are left out: \\x1b, 00, 01, " in said
    assert ", 08 and 2 more\n" in said


def test_a_folder_may_be_thinned_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet = tmp_path / "sheet.png"
    for name in ("ann", "bob"):
        save(tmp_path / "photos" / name / "1.png", draw((4, 4)))
    assert find(tmp_path, "--sheet", sheet) == 0
    assert f"{sheet} shows 2 of them\n" in capsys.readouterr().out
    (tmp_path / "faces" / "bob").rename(tmp_path / "bob")
    assert find(tmp_path, "--sheet", sheet) == 0
    assert f"{sheet} shows 1 of them; 1 were moved or deleted" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "faces").iterdir()] == ["ann"]
    (tmp_path / "faces" / "ann").rename(tmp_path / "ann")
    assert find(tmp_path, "--sheet", sheet) == 0
    assert f"no {sheet}; 2 were moved or deleted" in capsys.readouterr().out


def test_options_for_finding_are_refused_with_a_list(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, "--faces", "all", "--keep", "tiny") == 2
    assert "--faces, --keep:" in capsys.readouterr().err
    assert not (folder / "faces").exists()


def test_it_runs_as_a_command(folder: Path) -> None:
    command = [sys.executable, "-m", "scripts.align_faces"]
    ended = subprocess.run(
        [*command, folder / "none.csv", folder, folder / "faces"],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True, capture_output=True,
        timeout=200,
    )  # fmt: skip
    assert ended.returncode == 2
    assert f"error: {folder / 'none.csv'} " in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (folder / "faces").exists()
