"""Figures are compared with the tolerance of their kind, and nothing is skipped."""

import numpy as np
import pytest

from eval.protocols.rates import PublishedTpr
from scripts.protocols.compare import Json, differences


@pytest.mark.parametrize(
    ("expected", "found", "same"),
    [
        ({"tar": 0.5}, {"tar": 0.5, "more": 1}, True),
        ({"tar": 0.5}, {"tar": 0.5 + 1e-9}, False),
        ({"threshold": 0.5}, {"threshold": 0.5 + 1e-7}, True),
        ({"threshold": 0.5}, {"threshold": 0.5 + 1e-5}, False),
        ({"scores": [0.5, [0.25]]}, {"scores": [0.5, [0.25 + 1e-7]]}, True),
        ({"pairs": 3}, {"pairs": 3.0}, True),
        ({"pairs": 3}, {"pairs": 4}, False),
        ({"tar": None}, {"tar": 0.0}, False),
        ({"tar": 0.0}, {"tar": None}, False),
        ({"tar": 0.0}, {}, False),
        ({"same": True}, {"same": 1}, False),
        ({"reason": "needs 4"}, {"reason": "needs 5"}, False),
        ([1, 2], [1], False),
        ([1], [1, 2], False),
        ({"1": 0.5}, {1: 0.5}, True),
        ([0.5, 1], np.array([0.5, 1.0]), True),
        ({"far": 0.1, "tpr": 0.5}, PublishedTpr(0.1, 0.5, 0.1), True),
        ({"far": [0.1]}, {"far": {"0": 0.1}}, False),
    ],
)
def test_differences(expected: Json, found: object, same: bool) -> None:
    lines = differences(expected, found, "part")
    assert (lines == []) is same
    assert all(line.startswith("part") for line in lines)
