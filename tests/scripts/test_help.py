import importlib
import re

import pytest

from tests.launch import ROOT

COMMANDS = [
    path.stem
    for path in sorted((ROOT / "scripts").glob("*.py"))
    if "def parse(" in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_states_the_defaults_that_exist(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit, match="0"):
        importlib.import_module(f"scripts.{name}").parse(["--help"])
    text = capsys.readouterr().out
    assert text.startswith("usage: ")
    assert "None" not in text
    assert "False" not in text
    if name == "make_pairs":
        assert re.search(r"--folds .*\(default: 10\)", text)
        assert re.search(r"--images [^\n]*\(default: its own\)\n", text)
