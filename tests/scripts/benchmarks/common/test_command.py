import json
from pathlib import Path

import pytest

from scripts.benchmarks.common.command import new_parser, run_benchmark


def test_the_report_is_written_and_its_page_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures, page = tmp_path / "a" / "figures.json", tmp_path / "b" / "page.md"
    arguments = ["--json", str(figures), "--markdown", str(page)]
    options = new_parser("benchmark_x", "A benchmark.").parse_args(arguments)
    report = {"rows": [1, 2]}
    found = run_benchmark(
        options, arguments, lambda _: report, lambda report: f"{report['command']}\n\n"
    )
    assert found == 0
    command = f"python scripts/benchmark_x.py {' '.join(arguments)}"
    assert json.loads(figures.read_text()) == {"command": command, **report}
    assert page.read_text() == f"{command}\n"
    assert command in capsys.readouterr().out


def test_an_error_of_the_user_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(_: object) -> dict[str, object]:
        raise ValueError("rate: 2 found")

    options = new_parser("benchmark_x", None).parse_args([])
    assert options.json == Path("runs/benchmark_x.json")
    options.json = tmp_path / "figures.json"
    assert run_benchmark(options, [], measure, str) == 1
    assert capsys.readouterr().err == "error: rate: 2 found\n"
    assert not options.json.exists()
