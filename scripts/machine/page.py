"""The summary of a check: for the terminal, as Markdown and as JSON."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

from recognition.redaction import printable, redact
from scripts.benchmarks.common.page import page, table
from scripts.machine.process import Outcome
from scripts.machine.step import FAILED, FULL, GOOD, QUICK, SKIPPED, SLOW, TINY, Figures, shown

TAIL_LINES = 15

TITLES = {FULL: "Machine check", QUICK: "Quick machine check", TINY: "Rehearsal of the check"}


def overall(outcomes: Sequence[Outcome], folder: Path, scale: str) -> str:
    """Return the verdict on the machine, and what to do."""

    def named(status: str) -> str:
        return ", ".join(one.step.name for one in outcomes if one.verdict.status == status)

    failed, slow, skipped = map(named, (FAILED, SLOW, SKIPPED))
    good = sum(one.verdict.status == GOOD for one in outcomes)
    words = f"{good} of {len(outcomes)} steps are good."
    if slow:
        words += f" Slower than expected: {slow}."
    if skipped:
        words += f" Skipped: {skipped}."
    if failed:
        words += (
            f" Failed: {failed}. Please open an issue with results.json and the logs of these "
            f"steps, which are in {folder}."
        )
    elif slow:
        words += f" If they stay so on an idle machine, please send us {folder / 'results.json'}."
    elif scale == TINY:
        words += " The check works; what it says of a GPU needs one."
    else:
        words += " The project works on this machine."
    return words


def line(outcome: Outcome) -> str:
    """Return a step's line for the terminal."""
    verdict = outcome.verdict
    return f"{outcome.step.name:<11} {verdict.status:<8} {outcome.seconds:4.0f} s  {verdict.words}"


def results(report: dict[str, Any], outcomes: Sequence[Outcome], folder: Path) -> dict[str, Any]:
    """Return all figures, as they were measured."""
    steps = {
        one.step.name: {
            "verdict": asdict(one.verdict),
            "seconds": round(one.seconds, 2),
            "rows": one.rows,
            "tail": _clean(one.tail) if one.verdict.status == FAILED else None,
        }
        for one in outcomes
    }
    return report | {"overall": overall(outcomes, folder, report["scale"]), "steps": steps}


def markdown(report: dict[str, Any], outcomes: Sequence[Outcome], folder: Path) -> str:
    """Return the page, which says of every step how it ended and what it found."""
    summary = table(
        ["step", "verdict", "seconds", "in words"],
        [
            [one.step.name, one.verdict.status, f"{one.seconds:.0f}", _cell(one.verdict.words)]
            for one in outcomes
        ],
        texts=(0, 1, 3),
    )
    sections = [section for outcome in outcomes for section in _section(outcome)]
    title = f"{TITLES[report['scale']]}: {report['machine']['device']}"
    return page(title, report, overall(outcomes, folder, report["scale"]), summary, *sections)


def write(report: dict[str, Any], outcomes: Sequence[Outcome], folder: Path) -> OSError | None:
    """Write `results.json` and `page.md`; return what prevented it."""
    texts = {
        "results.json": json.dumps(results(report, outcomes, folder), indent=1),
        "page.md": markdown(report, outcomes, folder).rstrip(),
    }
    try:
        for name, text in texts.items():
            partial = folder / f".{name}"
            partial.write_text(text + "\n", encoding="utf-8")
            partial.replace(folder / name)
    except OSError as error:
        return error
    return None


def _section(outcome: Outcome) -> Iterator[str]:
    """Yield a step's heading, tables, and the end of its output if it failed."""
    failed = outcome.verdict.status == FAILED
    if not outcome.rows and not failed:
        return
    yield f"## {outcome.step.title}"
    yield from _tables(outcome.rows)
    tail = _clean(outcome.tail).strip().splitlines()[-TAIL_LINES:]
    if failed and tail:
        yield "It failed; the end of its output:"
        yield "\n".join(f"    {part}".rstrip() for part in tail)


def _tables(figures: Sequence[Figures]) -> Iterator[str]:
    """Yield a table for each stretch of rows with the same headings."""
    for head, group in groupby(figures, key=list):
        rows = list(group)
        texts = [i for i, name in enumerate(head) if isinstance(rows[0][name], str)]
        cells = [[_cell(shown(value)) for value in row.values()] for row in rows]
        yield table(head, cells, texts=texts)


def _cell(text: str) -> str:
    return _clean(text).replace("|", "\\|").replace("\n", " ")


def _clean(text: str) -> str:
    """Return a text without secrets of URLs and without control sequences, line by line."""
    return "\n".join(printable(redact(part)) for part in text.splitlines())
