import os
import pty
import re
import subprocess
import sys
import termios

from tests.launch import ROOT

TOOL = """
import logging, sys
from data.progress import progress_bar
try:
    with progress_bar("looking", "image") as show:
        show(1, 3)
        logging.getLogger("data").warning("a warning")
        show(2, 3)
        raise ValueError("too bad")
except ValueError as error:
    print(f"error: {error}", file=sys.stderr)
"""


def run(stderr: int) -> str:
    ended = subprocess.run(
        [sys.executable, "-c", TOOL], cwd=ROOT, stderr=stderr, check=True, text=True, timeout=100
    )
    return ended.stderr


def test_log_messages_appear_on_lines_of_their_own_above_a_bar() -> None:
    terminal, its_end = pty.openpty()
    termios.tcsetwinsize(its_end, (24, 100))
    run(its_end)
    shown = os.read(terminal, 1 << 16).decode()
    os.close(terminal)
    os.close(its_end)
    assert "looking:  33%" in shown
    lines = re.split(r"[\r\n]+", shown)  # each overwrites the one before, or follows it
    assert "a warning" in lines
    assert "error: too bad" in lines


def test_a_file_gets_the_messages_without_a_bar() -> None:
    assert run(subprocess.PIPE) == "a warning\nerror: too bad\n"
