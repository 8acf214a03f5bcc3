"""Compares the faces that were found with those that are there."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from data.alignment import Points

Rows = Sequence[Mapping[str, str]]
Truth = Mapping[str, Sequence[Mapping[str, Any]]]

# Degrees of yaw; from about 65 on a head hides one of its eyes.
BANDS: Final = {
    "frontal, up to 25°": (0, 25),
    "turned, 25° to 65°": (25, 65),
    "profile, 65° to 90°": (65, 91),
}
_NEAR: Final = 0.5  # between the means of landmarks, in heights from eyes to mouth


def compare(rows: Rows, truth: Truth) -> dict[str, Any]:
    """Return recall and landmark error of the main faces in each band, and false detections.

    `rows` are those of the list of faces, with every detection; `truth` that of
    `make_demo_photos`. A face is found if the mean of a detection's landmarks is within half the
    height from its eyes to its mouth. The error is the mean distance of the landmarks over that of
    the eyes, of faces that hide none. A detection is false if it is near no face at all.

    The faces behind count as `others` if all their landmarks are visible.
    """
    detections = _points_by_photo(rows)
    groups: dict[str, dict[str, Any]] = {
        name: {"faces": 0, "found": 0, "errors": []} for name in (*BANDS, "others")
    }
    false = 0
    for photo, faces in truth.items():
        left = detections.get(photo, [])
        for place, face in enumerate(faces):
            points = np.array(face["points"])
            match = _closest(points, left)
            name = _group(place, face)
            if name is not None:
                groups[name]["faces"] += 1
                groups[name]["found"] += match is not None
            if match is None:
                continue
            if name is not None and face["visible"]:
                error = np.linalg.norm(left[match] - points, axis=1).mean()
                groups[name]["errors"].append(error / np.linalg.norm(points[1] - points[0]))
            left = left[:match] + left[match + 1 :]
        false += len(left)
    return {"groups": groups, "false": false, "photos": len(truth)}


def right_person(rows: Rows, truth: Truth) -> int:
    """Return how many of the faces that were written are the main person's of their photo."""
    right = 0
    for photo, points in _points_by_photo([r for r in rows if r["reason"] == "written"]).items():
        right += _closest(np.array(truth[photo][0]["points"]), points) is not None
    return right


def _group(place: int, face: Mapping[str, Any]) -> str | None:
    if place:
        return "others" if face["visible"] else None
    return next(name for name, (low, high) in BANDS.items() if low <= face["yaw"] < high)


def _points_by_photo(rows: Rows) -> dict[str, list[Points]]:
    """Return the landmarks of all detections in each photo."""
    found: dict[str, list[Points]] = {}
    for cells in rows:
        if cells["x1"]:
            numbers = [float(cells[f"{axis}{n}"]) for n in range(1, 6) for axis in "xy"]
            found.setdefault(cells["photo"], []).append(np.reshape(numbers, (5, 2)))
    return found


def _closest(points: Points, detections: Sequence[Points]) -> int | None:
    """Return which detection is that of a face; None if none is near enough."""
    if not detections:
        return None
    height = np.linalg.norm(points[3:].mean(0) - points[:2].mean(0))
    distances = [float(np.linalg.norm(each.mean(0) - points.mean(0))) for each in detections]
    best = int(np.argmin(distances))
    return best if distances[best] <= _NEAR * height else None
