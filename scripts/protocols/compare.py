"""Compare the figures found with the figures expected, and say where they differ."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

Json = Any

# Scores may differ in this much: references are float64, networks and templates need not be.
SCORE_TOLERANCE: Final = 1e-6
# Rates are quotients of the same whole numbers: only the order of operations may differ.
RATE_TOLERANCE: Final = 1e-12
SCORES: Final = {
    "first_landmarks",
    "first_scores",
    "first_template",
    "score_sum",
    "scores",
    "threshold",
}


def read_json(path: Path) -> Json:
    """Return the content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def plain(found: object) -> Json:
    """Return results as JSON has them: dataclasses as objects, tuples and arrays as lists."""
    if dataclasses.is_dataclass(found) and not isinstance(found, type):
        return {
            field.name: plain(getattr(found, field.name)) for field in dataclasses.fields(found)
        }
    if isinstance(found, Mapping):
        return {str(key): plain(value) for key, value in found.items()}
    if isinstance(found, np.ndarray):
        return found.tolist()
    if isinstance(found, np.generic):
        return found.item()
    if isinstance(found, Sequence) and not isinstance(found, str):
        return [plain(value) for value in found]
    return found


def differences(expected: Json, found: object, where: str) -> list[str]:
    """Return a line for each expected figure that was not found or differs.

    Figures that were found beside the expected ones are no difference. Scores, which are what
    `SCORES` names with all that is in it, agree within `SCORE_TOLERANCE`; whole numbers and words
    are equal; all else within `RATE_TOLERANCE`.
    """
    return list(_walk(expected, plain(found), where, RATE_TOLERANCE))


def _walk(expected: Json, found: Json, where: str, tolerance: float) -> list[str]:
    if isinstance(expected, dict) and isinstance(found, dict):
        lines = []
        for key, value in expected.items():
            place = f"{where}/{key}"
            if key not in found:
                lines.append(f"{place}: expected {_short(value)}, missing")
            else:
                within = SCORE_TOLERANCE if key in SCORES else tolerance
                lines += _walk(value, found[key], place, within)
        return lines
    if isinstance(expected, list) and isinstance(found, list):
        lines = []
        if len(expected) != len(found):
            lines.append(f"{where}: expected {len(expected)} values, found {len(found)}")
        for index, (one, other) in enumerate(zip(expected, found, strict=False)):
            lines += _walk(one, other, f"{where}[{index}]", tolerance)
        return lines
    if _same(expected, found, tolerance):
        return []
    return [f"{where}: expected {_short(expected)}, found {_short(found)}"]


def _same(expected: Json, found: Json, tolerance: float) -> bool:
    numbers = [
        one for one in (expected, found) if isinstance(one, int | float) and type(one) is not bool
    ]
    if len(numbers) < 2 or all(isinstance(one, int) for one in numbers):
        return bool(expected == found and isinstance(expected, bool) == isinstance(found, bool))
    return math.isclose(expected, found, rel_tol=tolerance, abs_tol=tolerance)


def _short(value: Json) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 100 else text[:97] + "..."
