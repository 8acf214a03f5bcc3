"""How much of what was planted a report names, and how much of what it names was planted."""

from collections.abc import Collection, Hashable, Mapping
from typing import Any

from scripts.benchmarks.cleaning.plant import Photo, Planted

Row = dict[str, Any]


def score(planted: Planted, report: Mapping[str, Any], places: tuple[str, str]) -> list[Row]:
    """Return a row for each kind; `places` are the names of the two sets in the report."""
    photos, found = [*planted.first, *planted.second], report["findings"]
    swapped = {i for i, photo in enumerate(photos) if photo.swapped}
    strangers = {i for i, photo in enumerate(photos) if photo.stranger}
    relabelled = {one["image"] for one in found["swapped"]}
    outliers = {one["image"] for one in found["outlier"]}
    same = {frozenset(map(tuple, one["labels"])) for one in found["same"]}
    first, second = places
    split = {frozenset({(first, str(a)), (first, str(b))}) for a, b in planted.split}
    shared = {frozenset({(first, str(a)), (second, str(b))}) for a, b in planted.shared}
    across = {pair for pair in same if len({place for place, _ in pair}) == 2}
    merged = {one["label"][1] for one in found["merged"] if one["label"][0] == first}
    leaked = {(one["set"], one["label"][1]) for one in found["leaked"]}
    true_leaks = {(name, str(x)) for name, labels in planted.leaked.items() for x in labels}
    rows = [
        _row("wrong label, of any kind", swapped | strangers, relabelled | outliers),
        {**_row("swapped label", swapped, relabelled | outliers), "precision": None},
        _row("swapped label, and where it belongs", _homes(planted, found, places),
             {(one["image"], *one["other_label"]) for one in found["swapped"]}),
        _row("one person, two labels of a set", split, same - across),
        _row("one person, a label in each set", shared, across),
        _row("one label, two people", set(map(str, planted.merged)), merged),
        _row("image twice", _copies(photos), {
            (photos[one["same_as"]].source, one["image"]) for one in found["duplicates"]}),
        _row("person of a verification set", true_leaks, leaked),
    ]  # fmt: skip
    for row, kind in zip(
        rows, ("swapped", "swapped", None, "same", "same", "merged", None, "leaked"), strict=True
    ):
        cut = report["cuts"].get(kind)
        row["claimed"] = cut and cut["precision"]
    return rows


def _row(name: str, true: Collection[Hashable], found: Collection[Hashable]) -> Row:
    hits = len(set(true) & set(found))
    return {
        "fault": name,
        "planted": len(true),
        "found": len(found),
        "precision": hits / len(found) if found else None,
        "recall": hits / len(true) if true else None,
    }


def _homes(
    planted: Planted, found: Mapping[str, Any], places: tuple[str, str]
) -> set[tuple[int, str, str]]:
    """Return each swapped image with a label of its person: the one named, if it is one of them."""
    homes: dict[int, list[tuple[str, str]]] = {}
    for photos, place in zip((planted.first, planted.second), places, strict=True):
        for photo in photos:
            if not (photo.swapped or photo.stranger):
                homes.setdefault(photo.person, []).append((place, str(photo.label)))
    named = {one["image"]: tuple(one["other_label"]) for one in found["swapped"]}
    result = set()
    for index, photo in enumerate([*planted.first, *planted.second]):
        if photo.swapped:
            labels = homes.get(photo.person, [("", "")])
            result.add((index, *(named[index] if named.get(index) in labels else labels[0])))
    return result


def _copies(photos: list[Photo]) -> set[tuple[int, int]]:
    """Return what is photographed and the image with the higher number, of each planted copy."""
    first: dict[int, int] = {}
    found = set()
    for index, photo in enumerate(photos):
        if photo.source in first:
            found.add((photo.source, index))
        first.setdefault(photo.source, index)
    return found
