"""The command line of a benchmark: its options for the report, and writing the report."""

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Report = dict[str, Any]


def new_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """Return the parser of `scripts/<name>.py`, with `--json` and `--markdown`."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    report = parser.add_argument_group("report")
    report.add_argument(
        "--json", type=Path, default=Path(f"runs/{name}.json"), help="file for all figures"
    )
    report.add_argument("--markdown", type=Path, help="file for the table, for docs/benchmarks/")
    parser.set_defaults(script=f"scripts/{name}.py")
    return parser


def run_benchmark(
    options: argparse.Namespace,
    arguments: Sequence[str] | None,
    measure: Callable[[argparse.Namespace], Report],
    page: Callable[[Report], str],
) -> int:
    """Measure, write the report, print it as `page`; return the exit status.

    `options` were parsed from `arguments` (None: from this process's) by a `new_parser`.
    """
    given = sys.argv[1:] if arguments is None else arguments
    try:
        report = {"command": shlex.join(["python", options.script, *given]), **measure(options)}
        text = page(report)
        _write(options.json, json.dumps(report, indent=1))
        _write(options.markdown, text)
    except (ValueError, OSError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(text)
    return 0


def _write(file: Path | None, text: str) -> None:
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.rstrip() + "\n", encoding="utf-8")
