import json
from pathlib import Path
from typing import Any

from scripts.machine.page import markdown, overall, results, write
from scripts.machine.process import Outcome
from scripts.machine.step import FAILED, FULL, GOOD, SKIPPED, SLOW, Context, Step, Verdict

REPORT: dict[str, Any] = {
    "command": "python scripts/check_machine.py",
    "machine": {"device": "a GPU", "cores": 2, "threads": 1, "versions": {}, "commit": None},
    "settings": "today",
    "scale": FULL,
}


def _outcome(name: str, status: str, **options: Any) -> Outcome:
    def run(context: Context) -> Verdict:
        raise AssertionError("not called")

    verdict = Verdict(status, f"words of {name}")
    return Outcome(Step(name, f"Title of {name}", run, {}), verdict, 1.26, **options)


OUTCOMES = [
    _outcome("one", GOOD, rows=[{"a": 1, "b": "x|y"}, {"a": 2_000, "b": "z"}, {"c": 0.12345}]),
    _outcome("two", FAILED, tail="first\n\x1b[31mlast https://user:secret@host/file"),
    _outcome("three", SLOW),
    _outcome("four", SKIPPED),
]


def test_the_page_shows_failed_steps_with_the_end_of_their_output(tmp_path: Path) -> None:
    page = markdown(REPORT, OUTCOMES, tmp_path)
    lines = page.splitlines()
    assert [line for line in lines if line.startswith("## ")] == [
        "## Title of one",
        "## Title of two",
    ]
    summary = [line for line in lines if line.startswith("| ")][2:6]
    assert [line.split("|")[1].strip() for line in summary] == ["one", "two", "three", "four"]
    assert "    first" in lines
    assert "secret" not in page
    assert "\x1b" not in page
    assert "| 2,000 | z    |" in lines  # numbers to the right, texts to the left
    assert "|     1 | x\\|y |" in lines
    assert "0.1235" in page


def test_the_verdict_names_the_steps_by_their_status(tmp_path: Path) -> None:
    words = overall(OUTCOMES, tmp_path, FULL)
    assert words.startswith("1 of 4 ")
    assert (
        words.index("three") < words.index("four") < words.index("two") < words.index(str(tmp_path))
    )


def test_results_have_every_figure_as_it_was_measured(tmp_path: Path) -> None:
    assert write(REPORT, OUTCOMES, tmp_path) is None
    found = json.loads((tmp_path / "results.json").read_text())
    assert found == json.loads(json.dumps(results(REPORT, OUTCOMES, tmp_path)))
    assert found["steps"]["one"]["rows"][2] == {"c": 0.12345}
    assert found["steps"]["two"]["verdict"]["status"] == FAILED
    assert "secret" not in str(found)
    assert (tmp_path / "page.md").read_text() == markdown(REPORT, OUTCOMES, tmp_path)


def test_a_page_that_cannot_be_written_is_no_traceback(tmp_path: Path) -> None:
    assert isinstance(write(REPORT, OUTCOMES, tmp_path / "missing"), OSError)
