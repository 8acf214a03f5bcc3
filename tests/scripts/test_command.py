"""How commands end."""

import pytest

from scripts.command import exit_with


def test_a_command_exits_with_its_status() -> None:
    with pytest.raises(SystemExit) as ended:
        exit_with(lambda: 3)
    assert ended.value.code == 3


def test_an_interrupted_command_says_so_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> int:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        exit_with(main, "interrupted; go on with the same command")
    assert ended.value.code == 130
    assert capsys.readouterr().err == "\ninterrupted; go on with the same command\n"
