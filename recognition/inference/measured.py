"""What `results.json` of `scripts/benchmark_verification.py` says of one network."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from recognition.inference.description import Threshold

FARS: Final = (1e-2, 1e-3, 1e-4, 1e-5)


class ResultsError(ValueError):
    """Results that are of other networks, or of another form."""


@dataclass(frozen=True)
class Measured:
    """The figures of one set; None where it has none."""

    set: str
    accuracy: float | None  # of the ten folds
    tar: Mapping[float, float | None]  # by FAR
    impostor_pairs: int


@dataclass(frozen=True)
class Measurements:
    """All figures of a network that a model card states."""

    sets: tuple[Measured, ...]
    thresholds: tuple[Threshold, ...]  # one for each of `FARS`
    flip: bool


def measurements(
    results: Mapping[str, Any], *, sha256: str | None = None, name: str | None = None
) -> Measurements:
    """Return what `results` says of the network with a hash, or of one by its name.

    A threshold is of the set with the most impostor pairs among those that support its rate.
    Raises `ResultsError` if the network is not among those that were measured.
    """
    try:
        names = {
            model["name"]
            for model in results["models"]
            if model["file"]["sha256"] == sha256 or model["name"] == name
        }
        known = [f"{model['name']} ({model['file']['path']})" for model in results["models"]]
        entries = [entry for entry in results["sets"] if entry["model"] in names]
        if not names:
            raise ResultsError(
                f"the results are of {', '.join(known)}: expected those of the network to export; "
                "measure it with scripts/benchmark_verification.py"
            )
        verified = [entry for entry in entries if entry["verification"] is not None]
        thresholds = tuple(_threshold(far, verified) for far in FARS)
        flips = {entry["settings"].get("flip") for entry in entries} - {None}
        sets = tuple(_measured(entry) for entry in verified)
    except (AttributeError, KeyError, TypeError) as error:
        raise ResultsError(
            f"found no results of scripts/benchmark_verification.py: {error!r}"
        ) from None
    if len(flips) > 1:
        raise ResultsError("some sets were measured with mirror images and some without: use one")
    return Measurements(sets, thresholds, flip=flips == {"yes"})


def _measured(entry: Mapping[str, Any]) -> Measured:
    folds, rows = entry["ten_fold"], list(_rows(entry))
    return Measured(
        set=entry["set"],
        accuracy=None if folds is None else folds["accuracy"],
        tar={far: next((row["tar"] for row in rows if _is(row, far)), None) for far in FARS},
        impostor_pairs=entry["counts"]["impostor"],
    )


def _threshold(far: float, entries: list[Mapping[str, Any]]) -> Threshold:
    found = [
        (entry["counts"]["impostor"], entry["set"], row)
        for entry in entries
        for row in _rows(entry)
        if _is(row, far)
    ]
    supported = [item for item in found if item[2]["threshold"] is not None]
    pairs, name, row = max(supported or found, default=(0, None, {}), key=lambda item: item[0])
    if supported:
        return Threshold(far, row["threshold"], None, name, pairs)
    reason = row.get("reason") or "it was not measured"
    return Threshold(far, None, reason, name, pairs or None)


def _rows(entry: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for row in entry["verification"]["rows"]:
        yield row["point"]


def _is(row: Mapping[str, Any], far: float) -> bool:
    return math.isclose(row["far"], far, rel_tol=1e-6)
