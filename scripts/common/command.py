"""The frame of a command: its parser, its errors, its end."""

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn, Protocol

Parse = Callable[[list[str] | None], argparse.Namespace]
Run = Callable[[argparse.Namespace], int]


class Main(Protocol):
    """The `main` of a command."""

    def __call__(self, arguments: list[str] | None = None) -> int:
        """Run with these arguments, by default the process's; return the exit status."""


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """States the default of each option that has one; a flag that is off has none."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False:
            return action.help
        return super()._get_help_string(action)


def make_parser(description: str | None, epilog: str | None = None) -> argparse.ArgumentParser:
    """Return a parser whose help states defaults; `description` is the command's docstring."""
    return argparse.ArgumentParser(
        description=description, epilog=epilog, formatter_class=HelpFormatter
    )


def command(parse: Parse, *, failed: int = 1) -> Callable[[Run], Main]:
    """Make a command's `main` of a function that takes the parsed options.

    A `ValueError` or `OSError` ends it with a line on stderr and the exit status `failed`.
    """

    def decorate(run: Run) -> Main:
        def main(arguments: list[str] | None = None) -> int:
            options = parse(arguments)
            try:
                return run(options)
            except (ValueError, OSError) as error:
                print(f"error: {error}", file=sys.stderr)
                return failed

        return main

    return decorate


def exit_with(main: Callable[[], int], interrupted: str = "interrupted") -> NoReturn:
    """Call `main` and exit with its status; after Ctrl-C with 130 and a line instead of a trace.

    `interrupted` is that line, with what to do next if there is anything.
    """
    try:
        status = main()
    except KeyboardInterrupt:
        print(f"\n{interrupted}", file=sys.stderr)
        status = 130
    sys.exit(status)
