from typing import Any

from scripts.benchmarks.cleaning.plant import Photo, Planted
from scripts.benchmarks.cleaning.score import score

FIRST, SECOND = "first", "second"


def planted() -> Planted:
    """Two images of each of four people, and one of the second set."""
    photos = [Photo(person, person, b"", source=2 * person + n) for person in range(4)
              for n in (0, 1)]  # fmt: skip
    photos[0].label, photos[0].swapped = 3, True
    photos[2].stranger = True
    copy = Photo(3, 3, b"", copied=True, source=7)
    return Planted(
        trained=4, first=[*photos, copy], second=[Photo(0, 0, b"", source=9)],
        split=[(0, 1)], merged=[2], leaked={"lfw": [3], "cfp": [1]}, shared=[(0, 0)],
    )  # fmt: skip


def report() -> dict[str, Any]:
    """What is found: of most kinds one that is there, and one that is not."""
    findings = {
        "swapped": [{"image": 0, "label": [FIRST, "3"], "other_label": [FIRST, "0"]}],
        "outlier": [{"image": 2, "label": [FIRST, "1"]}, {"image": 5, "label": [FIRST, "2"]}],
        "same": [
            {"labels": [[FIRST, "1"], [FIRST, "0"]]},
            {"labels": [[FIRST, "0"], [SECOND, "0"]]},
            {"labels": [[FIRST, "2"], [SECOND, "0"]]},
        ],
        "merged": [{"label": [FIRST, "2"]}, {"label": [SECOND, "0"]}],
        "duplicates": [{"image": 8, "same_as": 7}, {"image": 3, "same_as": 2}],
        "leaked": [{"set": "lfw", "label": [FIRST, "3"]}, {"set": "cfp", "label": [FIRST, "3"]}],
    }
    return {"findings": findings, "cuts": {"swapped": {"precision": 0.9}, "same": None}}


def test_what_was_planted_and_found_is_counted_by_kind() -> None:
    rows = score(planted(), report(), (FIRST, SECOND))
    found = {row["fault"]: (row["planted"], row["found"], row["precision"], row["recall"])
             for row in rows}  # fmt: skip
    assert found == {
        "wrong label, of any kind": (2, 3, 2 / 3, 1.0),
        "swapped label": (1, 3, None, 1.0),
        "swapped label, and where it belongs": (1, 1, 1.0, 1.0),
        "one person, two labels of a set": (1, 1, 1.0, 1.0),
        "one person, a label in each set": (1, 2, 0.5, 1.0),
        "one label, two people": (1, 1, 1.0, 1.0),
        "image twice": (1, 2, 0.5, 1.0),
        "person of a verification set": (2, 2, 0.5, 0.5),
    }
    assert rows[0]["claimed"] == 0.9
    assert rows[3]["claimed"] is None
