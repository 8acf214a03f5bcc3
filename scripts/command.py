"""How a command of this folder ends."""

import sys
from collections.abc import Callable
from typing import NoReturn


def exit_with(main: Callable[[], int], interrupted: str = "interrupted") -> NoReturn:
    """Call `main` and exit with its status; after Ctrl-C with 130, and a line in place of a trace.

    `interrupted` is that line, and what to do next if there is anything.
    """
    try:
        status = main()
    except KeyboardInterrupt:
        print(f"\n{interrupted}", file=sys.stderr)
        status = 130
    sys.exit(status)
