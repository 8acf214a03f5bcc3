import argparse
import json
import subprocess
from pathlib import Path

import pytest

from scripts.benchmarks.common.command import benchmark_parser, publish
from scripts.common.command import command

pytestmark = pytest.mark.slow


def test_the_report_is_written_and_its_page_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures, page = tmp_path / "a" / "figures.json", tmp_path / "b" / "page.md"
    arguments = ["--json", str(figures), "--markdown", str(page)]
    report = {"rows": [1, 2]}

    @command(benchmark_parser("benchmark_x", "A benchmark."))
    def main(options: argparse.Namespace) -> None:
        publish(options, report, lambda report: f"{report['command']}\n\n")

    assert main(arguments) == 0
    line = f"python scripts/benchmark_x.py {' '.join(arguments)}"
    assert json.loads(figures.read_text()) == {"command": line, **report}
    assert page.read_text() == f"{line}\n"
    assert line in capsys.readouterr().out


def test_a_program_that_fails_is_one_line_and_no_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = benchmark_parser("benchmark_x", None)
    assert parser.parse_args([]).json == Path("runs/benchmark_x.json")

    @command(parser)
    def main(options: argparse.Namespace) -> None:
        figures = {"lines": subprocess.run(["false"], check=True)}
        publish(options, figures, str)

    assert main(["--json", str(tmp_path / "figures.json")]) == 1
    assert capsys.readouterr().err.startswith("error: ")
    assert list(tmp_path.iterdir()) == []
