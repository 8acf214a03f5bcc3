import importlib
import re
import subprocess
import sys

import pytest

from tests.launch import ROOT

COMMANDS = [
    path.stem
    for path in sorted((ROOT / "scripts").glob("*.py"))
    if "\n@command(parser" in path.read_text(encoding="utf-8")
]


def test_the_commands_for_records_start_without_torch_which_takes_seconds() -> None:
    embeds = "clean_records"
    names = [name for name in COMMANDS if name.endswith("_records") and name != embeds]
    code = f"import sys, {', '.join(f'scripts.{name}' for name in names)}"
    run = [sys.executable, "-c", f"{code}; print('torch' in sys.modules)"]
    ended = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True, timeout=200)
    assert (len(names), ended.stdout) == (6, "False\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_states_the_defaults_that_exist(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit, match="0"):
        importlib.import_module(f"scripts.{name}").main(["--help"])
    text = capsys.readouterr().out
    assert text.startswith("usage: ")
    assert "None" not in text
    assert "False" not in text
    assert "[]" not in text
    if name == "make_pairs":
        assert re.search(r"--folds .*\(default: 10, ", text)
        assert re.search(r"--images [^\n]*\(default: its own\)\n", text)
