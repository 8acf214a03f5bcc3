"""Every edge case ends with its value, its refusal or its warning; a wrong one is a line."""

from pathlib import Path

import pytest

from scripts.protocols.compare import Json, read_json
from scripts.protocols.edge_cases import KINDS, check_case

CASES = read_json(Path(__file__).parents[2] / "fixtures" / "evaluation" / "edge_cases.json")


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if case["kind"] in KINDS],
    ids=lambda case: f"{case['kind']}: {case['name']}",
)
def test_edge_case(case: Json) -> None:
    assert check_case(case) == []


GIVEN = {"genuine": [0.8, 0.6], "impostor": [0.5, 0.1], "far": 0.5}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"value": {"tar": 0.5}}, ["tar", "0.5", "1.0"]),
        ({"value": {"new": 1}}, ["new", "missing"]),
        ({"refuse": ["x"]}, ["refused"]),
        ({"warn": ["x"]}, ["warn", "x"]),
        ({"kind": "unheard"}, ["unheard", "rates_one"]),
        ({"allow": 1}, ["allow"]),
        ({"given": {"genuine": [], "impostor": [0.1], "far": 0.5}}, ["0 genuine and 1"]),
        (
            {"given": {"genuine": [], "impostor": [0.1], "far": 0.5}, "refuse": ["7"]},
            ["7", "0 genuine and 1"],
        ),
        ({"given": {"genuine": [0.5]}}, ["KeyError", "impostor"]),
        ({"kind": "edc", "given": {"scores": [], "far": 0.1}}, ["LookupError", "far"]),
        ({"kind": "file", "given": {"new.txt": ""}}, ["new.txt"]),
    ],
)
def test_what_ends_otherwise_is_a_line(change: Json, words: list[str]) -> None:
    case = {"name": "it", "kind": "rates_one", "given": GIVEN, "why": "", **change}
    (line,) = check_case(case)
    assert all(word in line for word in ["it", *words])
