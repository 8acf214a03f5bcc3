import json
import re
from pathlib import Path

import pytest
from PIL import Image

from scripts.inspect_records import main


def test_text_json_and_a_grid(
    tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tiny_data)]) == 0
    assert re.search(r"^91 .* 13 .* 0 .* 12,", capsys.readouterr().out, flags=re.M)
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


def test_refusals_name_the_file_and_what_helps(
    tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "absent.rec")]) == 1
    printed = capsys.readouterr().err
    assert f"error: {tmp_path / 'absent.rec'} " in printed
    assert "check_records" not in printed
    content = bytearray((tiny_data / "train.rec").read_bytes())
    content[0] ^= 1
    (tmp_path / "x.rec").write_bytes(content)
    assert main([str(tmp_path / "x.rec")]) == 1
    assert "scripts/check_records.py" in capsys.readouterr().err
    assert main([str(tiny_data), "--grid", str(tmp_path / "grid.what")]) == 1
    assert "error: " in capsys.readouterr().err
