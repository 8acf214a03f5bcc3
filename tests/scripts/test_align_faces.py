import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from data.alignment import TEMPLATE
from scripts.align_faces import main
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
