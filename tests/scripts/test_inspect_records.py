import json
from pathlib import Path

import pytest
from PIL import Image

from scripts.inspect_records import main


def test_text_json_and_a_grid(
    tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tiny_data)]) == 0
    assert "91 images of 13 identities; labels 0 to 12, without gaps" in capsys.readouterr().out
    grid = ["--grid", str(tmp_path / "grid.png"), "--rows", "3", "--columns", "5"]
    assert main([str(tiny_data), "--json", "--sample", "7", *grid]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["images"], found["identities"], found["sampled"]) == (91, 13, 7)
    assert found["images_per_identity"]["bins"] == [[4, 7, 13]]
    assert found["files"][0]["path"] == str(tiny_data / "train.rec")
    with Image.open(tmp_path / "grid.png") as image:
        first = image.tobytes()
        assert image.size == (5 * 112, 3 * 112)
    assert main([str(tiny_data), *grid, "--random"]) == 0
    with Image.open(tmp_path / "grid.png") as image:
        assert image.tobytes() != first


def test_refusals_name_the_fault_and_the_way_on(
    tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "absent.rec")]) == 1
    printed = capsys.readouterr().err
    assert "absent.rec does not exist" in printed
    assert "check_records" not in printed
    content = bytearray((tiny_data / "train.rec").read_bytes())
    content[0] ^= 1
    (tmp_path / "x.rec").write_bytes(content)
    assert main([str(tmp_path / "x.rec")]) == 1
    assert "scripts/check_records.py goes on past damage" in capsys.readouterr().err
    assert main([str(tiny_data), "--grid", str(tmp_path / "grid.what")]) == 1
    assert "unknown file extension" in capsys.readouterr().err
