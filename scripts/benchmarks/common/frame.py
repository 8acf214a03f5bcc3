"""The frame of a benchmark's command: measure, write the report, print its table."""

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

Report = dict[str, Any]


def report_on(
    script: str,
    options: argparse.Namespace,
    given: Sequence[str] | None,
    measure: Callable[[argparse.Namespace, str], Report],
    markdown: Callable[[Report], str],
) -> int:
    """Measure, write what `options.json` and `options.markdown` ask for; return the exit status.

    Args:
        script: the command's file, from the clone's root.
        options: as parsed.
        given: the arguments they came from; None for the process's own.
        measure: takes the options and the command line for the report.
        markdown: makes the page of a report.
    """
    given = sys.argv[1:] if given is None else given
    try:
        report = measure(options, shlex.join(["python", script, *given]))
        page = markdown(report)
        for file, text in ((options.json, json.dumps(report, indent=1)), (options.markdown, page)):
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text.rstrip() + "\n", encoding="utf-8")
    except (ValueError, OSError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(page)
    return 0
