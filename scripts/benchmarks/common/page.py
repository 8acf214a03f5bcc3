"""A report as Markdown that is easy to read in a terminal too."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

MISSING = "–"

Row = Mapping[str, Any]
Column = tuple[str, Callable[[Row], str]]
"""A column's heading, and how its cell is written."""


def page(title: str, report: Mapping[str, Any], *blocks: str, setting: Sequence[str] = ()) -> str:
    """Return a page: title, command, machine, settings, then the blocks.

    `setting` has further items for the list that says how the figures came about.
    """
    machine = report["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    items = [
        f"{machine['device']}, {machine['cores']} cores, {machine['threads']} CPU threads",
        f"{versions}, commit {machine['commit'] or 'unknown'}",
        *setting,
        report["settings"],
    ]
    return "\n\n".join([f"# {title}", f"    {report['command']}", bullets(items), *blocks]) + "\n"


def bullets(items: Sequence[str]) -> str:
    """Return a list."""
    return "\n".join(f"- {item}" for item in items)


def table_of(columns: Sequence[Column], rows: Sequence[Row]) -> str:
    """Return a table with a line per row."""
    return table(
        [name for name, _ in columns], [[cell(row) for _, cell in columns] for row in rows]
    )


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, texts: Collection[int] = (0,)
) -> str:
    """Return a table, the columns `texts` aligned left and the others right."""
    widths = [max(len(line[i]) for line in [head, *rows]) for i in range(len(head))]
    rule = [
        "-" * width if i in texts else "-" * (width - 1) + ":" for i, width in enumerate(widths)
    ]
    lines = []
    for line in [head, rule, *rows]:
        padded = [
            cell.ljust(width) if i in texts else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        lines.append(f"| {' | '.join(padded)} |")
    return "\n".join(lines)


def optional(value: float | None, form: str, factor: float = 1.0) -> str:
    """Return `value * factor` in this form, or a dash for None."""
    return MISSING if value is None else form.format(value * factor)
