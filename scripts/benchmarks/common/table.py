"""Markdown that reads well in a terminal too."""

from collections.abc import Mapping, Sequence
from typing import Any


def machine_lines(machine: Mapping[str, Any]) -> list[str]:
    """Return what `machine.describe` found, as items of a list."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return [
        f"- {machine['device']}, {machine['cores']} cores, {machine['threads']} CPU threads",
        f"- {versions}, commit {machine['commit'] or 'unknown'}",
    ]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table, the first column to the left and the others to the right."""
    widths = [max(len(line[i]) for line in [head, *rows]) for i in range(len(head))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return [_line(line, widths) for line in [head, rule, *rows]]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
    return f"| {' | '.join([cells[0].ljust(widths[0]), *padded[1:]])} |"
