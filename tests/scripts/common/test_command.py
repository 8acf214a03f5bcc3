import argparse

import pytest

from scripts.common.command import command, exit_with, make_parser

parser = make_parser("A command.\n\n    python command.py 3\n    python command.py 5")
parser.add_argument("number", type=int)


@command(parser, failed=2)
def main(options: argparse.Namespace) -> int:
    number: int = options.number
    if number < 0:
        raise ValueError(f"number is {number}")
    if number == 0:
        raise FileNotFoundError(2, "No such file", "zero.txt")
    if number == 1:
        raise KeyError("a bug")
    if number == 2:
        raise ModuleNotFoundError("needs onnxruntime\x1b[31m\udcff")
    assert options.given == ["3"]
    return number


def test_a_command_returns_what_it_does_with_its_options() -> None:
    assert main(["3"]) == 3


@pytest.mark.parametrize(
    ("number", "named"), [("-7", "number is -7"), ("0", "zero.txt"), ("2", "onnxruntime")]
)
def test_errors_of_the_user_are_one_line(
    number: str, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--", number]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert captured.err.strip().isprintable()
    assert named in captured.err


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(KeyError):
        main(["1"])


def test_a_command_exits_with_its_status() -> None:
    with pytest.raises(SystemExit) as ended:
        exit_with(lambda: 3)
    assert ended.value.code == 3


def test_an_interrupted_command_ends_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        exit_with(interrupted, "interrupted; go on with the same command")
    assert ended.value.code == 130
    assert capsys.readouterr().err == "\ninterrupted; go on with the same command\n"


def test_an_error_shows_no_secret(capsys: pytest.CaptureFixture[str]) -> None:
    @command(make_parser("Fail."))
    def main(options: argparse.Namespace) -> None:
        raise ValueError("https://me:hush@host/x.rec?sig=hush: no such file")

    assert main([]) == 1
    assert capsys.readouterr().err == "error: https://***@host/x.rec?***: no such file\n"
