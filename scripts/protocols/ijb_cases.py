"""The edge cases of rates and of IJB."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np

from eval.protocols.ijb_files import (
    Faces,
    check_same_faces,
    pairs_of,
    read_faces,
    read_landmarks,
    read_pairs,
    read_subjects,
    subjects_of,
)
from eval.protocols.ijb_search import run_searches
from eval.protocols.ijb_verification import (
    Mode,
    Templates,
    check_pairs,
    pair_scores,
    pool_templates,
)
from eval.protocols.rates import FARS, ScoredPairs, tar_at_far
from scripts.protocols.compare import Json
from scripts.protocols.ijb import search_as
from scripts.protocols.scored_pairs import rates_as


def numbers(given: Json) -> np.ndarray:
    """Return a list, or a list of lists, as float64: null is NaN, "inf" infinity."""
    return np.array(given, dtype=np.float64)


def rates(given: Json, value: Json) -> object:
    """Return every figure of two lists of scores at a list of rates."""
    pairs = ScoredPairs(numbers(given["genuine"]), numbers(given["impostor"]))
    return pairs.rates(given.get("far", FARS))


def rates_one(given: Json, value: Json) -> object:
    """Return TAR at a single rate."""
    return tar_at_far(numbers(given["genuine"]), numbers(given["impostor"]), given["far"])


def ijb_one_to_one(given: Json, value: Json) -> object:
    """Return the scores of pairs of templates, and their figures where there are both kinds."""
    templates = _templates(given)
    pairs = pairs_of(given["pairs"])
    first_p, second_p, _, _ = check_pairs(templates, pairs)
    score_p = pair_scores(templates, first_p, second_p)
    found: Json = {"scores": score_p}
    if pairs.same_p.any() and not pairs.same_p.all():
        scored = ScoredPairs(score_p[pairs.same_p], score_p[~pairs.same_p])
        found |= rates_as(value or {}, scored)
    return found


def ijb_one_to_many(given: Json, value: Json) -> object:
    """Return the figures of a search, at the ranks and rates that are expected."""
    templates = _templates(given)
    rows = given.get("gallery_rows", list(given["gallery"].items()))
    gallery = subjects_of((int(template), subject) for template, subject in rows)
    rows = given.get("probe_rows", list(given["probes"].items()))
    probes = subjects_of((int(template), subject) for template, subject in rows)
    closed = given.get("closed", False)
    return search_as(value or {}, run_searches(templates, gallery, probes, closed=closed))


def _templates(given: Json) -> Templates:
    images, template_n, medium_n = zip(*given["faces"], strict=True)
    check_same_faces(images, tuple(given["landmark_names"]))
    return pool_templates(
        Faces(images, np.array(template_n), np.array(medium_n)),
        numbers(given["plain"]),
        numbers(given["flipped"]) if given.get("flipped") else None,
        numbers(given["detector_score"]),
        Mode.parse(given.get("mode", "N1D1F1")),
    )


def _faces(path: Path) -> object:
    faces = read_faces(path)
    return list(zip(faces.images, faces.template_n, faces.medium_n, strict=True))


def _landmarks(path: Path) -> object:
    landmarks = read_landmarks(path)
    points_nk = landmarks.points_n52.reshape(len(landmarks.images), -1)
    return [
        [image, *points, score]
        for image, points, score in zip(
            landmarks.images, points_nk, landmarks.detector_n, strict=True
        )
    ]


def _pairs(path: Path) -> object:
    pairs = read_pairs(path)
    return np.stack([pairs.id_u[pairs.first_p], pairs.id_u[pairs.second_p], pairs.same_p], axis=1)


def _subjects(path: Path) -> object:
    subjects = read_subjects(path)
    return np.stack([subjects.template_t, subjects.subject_t], axis=1)


# By how the file's name ends: IJB-B and IJB-C begin it differently.
FILES: Final[dict[str, Callable[[Path], object]]] = {
    "_face_tid_mid.txt": _faces,
    "_name_5pts_score.txt": _landmarks,
    "_template_pair_label.txt": _pairs,
    ".csv": _subjects,
}
