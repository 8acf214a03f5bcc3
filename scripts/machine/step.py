"""What a step of the check is given, and what it reports."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

GOOD, SLOW, SKIPPED, FAILED = "good", "slow", "skipped", "failed"

FULL, QUICK, TINY = "full", "quick", "tiny"
"""How large the steps' work is: 9 minutes, 90 seconds, or toy sizes for a CPU."""

Figures = dict[str, str | int | float]
"""A row of a step's table: heading and value."""


@dataclass(frozen=True)
class Verdict:
    """How a step ended: a status, and a sentence that says what was found and what was expected."""

    status: str
    words: str


@dataclass
class Context:
    """What a step is given."""

    device: torch.device
    scale: str  # `FULL`, `QUICK` or `TINY`
    folder: Path  # scratch that all steps share; later steps find the demo's data there
    seconds: float  # until the step is ended
    send: Callable[[str, Any], None]  # a message to the page: a row, or a fact of the machine
    rows: list[Figures] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    @property
    def tiny(self) -> bool:
        """Whether sizes are toys, so that no speed means anything."""
        return self.scale == TINY

    @property
    def cuda(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"

    def record(self, **figures: Any) -> Figures:
        """Report a row at once, so that it is on the page even if the step is ended later.

        An underscore in a name is a blank in the heading.
        """
        row = {name.replace("_", " "): value for name, value in figures.items()}
        self.rows.append(row)
        self.send("row", row)
        print(", ".join(f"{name} {shown(value)}" for name, value in row.items()), flush=True)
        return row

    def left(self) -> float:
        """Return the seconds until the step is ended."""
        return self.seconds - (time.monotonic() - self.started)


@dataclass(frozen=True)
class Step:
    """A step of the check, in a process of its own."""

    name: str
    title: str
    run: Callable[[Context], Verdict]
    limits: dict[str, float]  # seconds, by scale; the step is not part of other scales


def shown(value: object) -> str:
    """Return a value as a table has it: four digits, or all of a whole number."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)
