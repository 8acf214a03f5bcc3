from typing import Any

import numpy as np
import pytest

from data.alignment import TEMPLATE, Points
from scripts.benchmarks.detection.accuracy import compare, right_person

EYES = float(np.linalg.norm(TEMPLATE[1] - TEMPLATE[0]))


def row(photo: str, points: Points, reason: str = "written") -> dict[str, str]:
    names = [f"{axis}{n}" for n in range(1, 6) for axis in "xy"]
    cells = dict(zip(names, map(str, points.reshape(-1).tolist()), strict=True))
    return {"photo": photo, "reason": reason, **cells}


def face(points: Points, yaw: float = 0, visible: bool = True) -> dict[str, Any]:
    return {"identity": 0, "points": points.tolist(), "yaw": yaw, "visible": visible}


def test_recall_error_and_false_detections() -> None:
    far, third = TEMPLATE + 300, TEMPLATE + np.array((0, 300))
    truth = {
        "a": [face(TEMPLATE, 10), face(far), face(third, visible=False)],
        "b": [face(TEMPLATE, 25), face(far)],
        "c": [face(TEMPLATE, 80, visible=False)],
        "d": [face(TEMPLATE, 0)],
    }
    below = [TEMPLATE + np.array((0, down)) for down in (2, 150)]
    rows = [
        row("a", far + np.array((3, 4))), row("a", below[0]), row("a", third), row("b", TEMPLATE),
        row("b", below[1], "not_chosen"), row("c", TEMPLATE),
        {**row("d", TEMPLATE), **dict.fromkeys(row("d", TEMPLATE), ""), "photo": "d"},
    ]  # fmt: skip
    result = compare(rows, truth)
    frontal, turned, profile, others = result["groups"].values()
    assert (frontal["faces"], frontal["found"]) == (2, 1)
    assert frontal["errors"] == [pytest.approx(2 / EYES)]
    assert (turned["faces"], turned["found"], turned["errors"]) == (1, 1, [0])
    assert (profile["faces"], profile["found"], profile["errors"]) == (1, 1, [])
    assert (others["faces"], others["found"]) == (2, 1)
    assert others["errors"] == [pytest.approx(5 / EYES)]
    assert result["false"] == 1
    assert right_person(rows[1:], truth) == 3
