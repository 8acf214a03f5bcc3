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


@pytest.mark.parametrize(
    ("files", "value"),
    [
        (
            {"pairs.txt": "1\nA 1 2\nA 1 B 2\n"},
            [["A/A_0001.jpg", "A/A_0002.jpg", 1], ["A/A_0001.jpg", "B/B_0002.jpg", 0]],
        ),
        ({"pairs.csv": "a,b,1\r\nc,d,0\r\n"}, [["a", "b", 1], ["c", "d", 0]]),
        ({"megaface_noises.txt": "2\tb.jpg\n# no\na.jpg\n"}, ["a.jpg", "b.jpg"]),
        (
            {"facescrub_features_list.json": '{"path": ["A/1.png"], "id": ["A"]}'},
            [["A/1.png"], ["A"]],
        ),
        ({"megaface_features_list.json_1_1": '{"path": ["a.jpg"]}'}, ["a.jpg"]),
        (
            {
                "Protocol/Pair_list_F.txt": "1 ../a.jpg\n2 ../b.jpg\n",
                "Protocol/Pair_list_P.txt": "1 ../c.jpg\n",
                "Protocol/Split/FP/01/same.txt": "1,1\n",
                "Protocol/Split/FP/01/diff.txt": "2,1\n",
            },
            {"cfp_fp": [["a.jpg", "c.jpg", 1], ["b.jpg", "c.jpg", 0]]},
        ),
    ],
    ids=lambda files: next(iter(files)) if isinstance(files, dict) else "",
)
def test_files_of_faces_are_read_by_their_names(files: dict[str, str], value: Json) -> None:
    case = {"name": "it", "kind": "file", "given": files, "why": "", "value": value}
    assert check_case(case) == []
