"""The report of findings that some commands write."""

import argparse
import json
from pathlib import Path
from typing import Any


def add_report(parser: argparse.ArgumentParser) -> None:
    """Add `--report`."""
    parser.add_argument("--report", type=Path, help="write all findings to this file, as JSON")


def check_report(options: argparse.Namespace) -> None:
    """Raise `ValueError`, before the work, if the report could not be written after it."""
    path = options.report
    if path is not None and not path.parent.is_dir():
        raise ValueError(f"--report {path}: its folder does not exist; make it first")


def write_report(options: argparse.Namespace, report: dict[str, Any]) -> None:
    """Write `report` if the options ask for it."""
    if options.report is not None:
        options.report.write_text(json.dumps(report, indent=2) + "\n")
