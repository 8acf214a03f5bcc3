"""The door: every part of a folder is compared, and what it does not know is a difference."""

import json
import shutil
from pathlib import Path

import pytest

from scripts.check_protocols import PARTS, main

GOLDEN = Path(__file__).parents[1] / "fixtures" / "evaluation"


def lines_of(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out


def test_an_unknown_part_is_a_difference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "unheard").mkdir()
    (tmp_path / "README.md").touch()
    assert main([str(tmp_path)]) == 1
    assert "unheard" in lines_of(capsys)


def test_an_empty_folder_is_a_difference(tmp_path: Path) -> None:
    assert main([str(tmp_path)]) == 1
    assert main([str(tmp_path / "missing")]) == 2


def test_a_wrong_figure_and_an_unknown_one_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "scored_pairs"
    shutil.copytree(GOLDEN / "scored_pairs", folder)
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    expected = {"published_points_kept": expected["published_points_kept"], "rates": {"auc": 0.5}}
    expected["rates"]["tar_at_far"] = []
    (folder / "expected.json").write_text(json.dumps({**expected, "unheard": 1}), encoding="utf-8")
    assert main([str(tmp_path)]) == 1
    text = lines_of(capsys)
    assert "scored_pairs/rates/auc: expected 0.5, found 0.99" in text
    assert "scored_pairs/unheard" in text


def test_a_part_that_fails_is_a_difference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "scored_pairs").mkdir()
    assert main([str(tmp_path)]) == 1
    assert "FileNotFoundError" in lines_of(capsys)


@pytest.mark.parametrize("part", PARTS)
def test_the_golden_values_are_reproduced(part: str) -> None:
    """Of the parts that are here; the rest of the folder is compared on release."""
    assert PARTS[part](GOLDEN / part) == []
