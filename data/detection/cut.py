"""Finds the faces of one photo and writes those that are wanted."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from data.alignment import (
    TEMPLATE,
    TEMPLATE_SIZE,
    AlignmentError,
    Points,
    Similarity,
    crop_face,
    fit_similarity,
)
from data.detection.choice import WRITTEN, Choice, choose, sharpness
from data.detection.detections import Detections, Detector
from data.detection.photo import Photo, PhotoError, opening
from data.files import atomic_write
from data.tools.align import Crop, encode_face

SMALL_SIDE: Final = 1024  # pixels of the copy in which faces are looked for

HEADING: Final = (
    "photo",
    "reason",
    "face",
    "score",
    "left",
    "top",
    "right",
    "bottom",
    *(f"{axis}{number}" for number in range(1, 6) for axis in "xy"),
    "sharpness",
    "detail",
)
"""Columns of the list. Boxes and landmarks are in pixels of the photo held upright."""


@dataclass(frozen=True)
class Cutter:
    """How the faces of a photo are found and written."""

    source: Path
    output: Path
    crop: Crop
    choice: Choice
    small_side: int = SMALL_SIDE
    alone: Path | None = None  # the lock for large photos
    listed: frozenset[str] = frozenset()  # faces that an earlier run wrote: they stay as they are

    def __call__(self, photo: str, stem: str, detector: Detector) -> list[list[str]]:
        """Write the faces of a photo as `stem`; return a row of the list for each, at least one."""
        try:
            with opening(self.source / photo, self.small_side, self.alone) as opened:
                found = _in_full(detector.detect(opened.small), opened)
                if not len(found):
                    return [row(photo, "no_face")]
                return self._rows(photo, stem, opened.full, found)
        except PhotoError as error:
            return [row(photo, error.reason, detail=str(error))]

    def _rows(self, photo: str, stem: str, full: Image.Image, found: Detections) -> list[list[str]]:
        rows, written = [], 0
        for number, reason in enumerate(choose(found, full.size, self.choice)):
            face, sharp, detail = "", "", ""
            if reason == WRITTEN:
                name = f"{stem}{f'_face{written + 1}' if written else ''}.{self.crop.format}"
                reason, sharp, detail = self._write(full, found.points[number], name)
                if reason == WRITTEN:
                    face, written = name, written + 1
            places = (*found.boxes[number], *found.points[number].reshape(-1))
            rows.append(
                row(
                    photo,
                    reason,
                    face,
                    f"{found.scores[number]:.3f}",
                    *(f"{place:.1f}" for place in places),
                    sharp,
                    detail=detail,
                )
            )
        return rows

    def _write(self, full: Image.Image, points: Points, name: str) -> tuple[str, str, str]:
        """Write a face unless it is doubtful; return its reason, its sharpness and a detail."""
        size, choice = self.crop.size, self.choice
        try:
            transform = fit_similarity(points, TEMPLATE * (size / TEMPLATE_SIZE))
        except AlignmentError as error:
            return "misfit", "", str(error)
        inside = _inside(transform, size, full.size)
        if inside < choice.min_inside and "incomplete" not in choice.keep:
            return "incomplete", "", f"{inside:.0%} of it are inside the photo"
        face = crop_face(full, transform, size, self.crop.method)
        sharp = sharpness(face)
        if sharp < choice.min_sharpness and "blurred" not in choice.keep:
            return "blurred", f"{sharp:.3f}", f"expected {choice.min_sharpness:g}"
        path = self.output / name
        if name not in self.listed:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as file:
                file.write(encode_face(face, self.crop))
        return WRITTEN, f"{sharp:.3f}", ""


def row(photo: str, reason: str, *cells: str, detail: str = "") -> list[str]:
    """Return a row of the list; cells that are not given are empty."""
    start = [photo, reason, *cells]
    return [*start, *[""] * (len(HEADING) - len(start) - 1), detail]


def _in_full(found: Detections, photo: Photo) -> Detections:
    """Return detections in a small copy as ones in the whole photo."""
    ratio = np.array(photo.reduction)
    return Detections(
        (found.boxes * np.tile(ratio, 2)).astype(np.float32),
        found.scores,
        (found.points + 0.5) * ratio - 0.5,
    )


def _inside(transform: Similarity, size: int, photo: tuple[int, int]) -> float:
    """Return how much of the aligned square of `size` pixels is inside a photo."""
    places = (np.arange(32) + 0.5) * (size / 32)
    x, y = np.meshgrid(places, places)
    source = ((x + 1j * y) - transform.shift) / transform.factor
    within = (source.real > -0.5) & (source.real < photo[0] - 0.5)
    within &= (source.imag > -0.5) & (source.imag < photo[1] - 0.5)
    return float(within.mean())
