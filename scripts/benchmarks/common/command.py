"""The command line of a benchmark: its options for the report, and writing the report."""

import argparse
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scripts.common.command import make_parser

Report = dict[str, Any]


def benchmark_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """Return the parser of `scripts/<name>.py`, with `--json` and `--markdown`."""
    parser = make_parser(description)
    report = parser.add_argument_group("report")
    report.add_argument(
        "--json", type=Path, default=Path(f"runs/{name}.json"), help="file to write all figures to"
    )
    report.add_argument(
        "--markdown", type=Path, help="file to write the page to, such as one of docs/benchmarks/"
    )
    parser.set_defaults(script=f"scripts/{name}.py")
    return parser


def publish(options: argparse.Namespace, figures: Report, page: Callable[[Report], str]) -> None:
    """Write the report, and print it as `page`."""
    report = {"command": shlex.join(["python", options.script, *options.given]), **figures}
    text = page(report)
    for file, content in ((options.json, json.dumps(report, indent=1)), (options.markdown, text)):
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content.rstrip() + "\n", encoding="utf-8")
    print(text)
