from pathlib import Path

import pytest

from recognition.config import Config
from recognition.head import LOSSES
from recognition.head.losses.margins import CosFace
from scripts import config_reference


def test_the_page_is_current() -> None:
    assert config_reference.main(["--check"]) == 0, "run python scripts/config_reference.py"


def test_check_finds_another_page_and_leaves_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "config.md"
    monkeypatch.setattr(config_reference, "PAGE", page)
    assert config_reference.main(["--check"]) == 1
    assert not page.exists()
    assert config_reference.main([]) == 0
    page.write_text(page.read_text().replace("| `0.1` |", "| `0.2` |"))
    assert config_reference.main(["--check"]) == 1


def test_every_key_and_option_has_a_row_with_type_default_and_meaning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(LOSSES, "mine", CosFace)
    rows = [line for line in config_reference.reference().splitlines() if line.startswith("| `")]
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert all(cells) or "[section]" in row or "`softmax`" in row, row
    schema = Config.model_json_schema()
    sections = [schema, *(s for s in schema["$defs"].values() if "properties" in s)]
    keys = [key for section in sections for key in section["properties"]]
    assert sorted(row.split("`")[1] for row in rows if row.split("`")[1] not in LOSSES) == sorted(
        keys
    )
    assert "| `mine` | `m` | number | `0.4` |" in "\n".join(rows)
