"""The frame of a command: its parser, its errors, its end."""

import argparse
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from recognition.redaction import printable, redact

Run = Callable[[argparse.Namespace], int | None]
Main = Callable[..., int]
"""Takes the arguments, by default the process's, and returns the exit status."""

# Mistakes of the user, packages to install, and programs whose own message was printed before.
_ERRORS = (ValueError, OSError, ModuleNotFoundError, subprocess.CalledProcessError)


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """States the defaults that there are, and keeps indented paragraphs as they are."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        # A flag that is off, and a list that is empty, have none.
        if action.default in (None, []) or action.default is False:
            return action.help
        return super()._get_help_string(action)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill, parts = super()._fill_text, text.strip().split("\n\n")
        return "\n\n".join(part if part[0] == " " else fill(part, width, indent) for part in parts)


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser whose help states defaults; `description` is the command's docstring."""
    return argparse.ArgumentParser(description=description, formatter_class=HelpFormatter)


def command(parser: argparse.ArgumentParser, *, failed: int = 1) -> Callable[[Run], Main]:
    """Make a command's `main` of a function of the parsed options; None is the exit status 0.

    An error that the user can fix ends it with a line on stderr and the exit status `failed`. The
    arguments as they were given are `options.given`.
    """

    def decorate(run: Run) -> Main:
        def main(arguments: Sequence[str] | None = None) -> int:
            options = parser.parse_args(arguments)
            options.given = sys.argv[1:] if arguments is None else arguments
            try:
                return run(options) or 0
            except _ERRORS as error:
                print(f"error: {printable(redact(str(error)))}", file=sys.stderr)
                return failed

        return main

    return decorate


def exit_with(main: Main, interrupted: str = "interrupted") -> NoReturn:
    """Call `main` and exit with its status; after Ctrl-C with 130 and a line instead of a trace.

    `interrupted` is that line, with what to do next if there is anything.
    """
    try:
        status = main()
    except KeyboardInterrupt:
        print(f"\n{interrupted}", file=sys.stderr)
        status = 130
    sys.exit(status)
