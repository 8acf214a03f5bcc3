"""SCRFD and RetinaFace from an ONNX file: what they say of every cell of three grids, decoded.

Each cell of the grids with strides 8, 16 and 32 has one or two anchors. SCRFD (Guo et al. 2021,
"Sample and computation redistribution for efficient face detection") gives, for each stride, a
score, the distances from the cell's corner to the four sides and to the landmarks, in strides.
RetinaFace (Deng et al. 2020, "RetinaFace: single-shot multi-level face localisation in the wild")
in its PyTorch form gives all strides in one, as offsets from square anchors. As in the published
code, the landmarks' coordinates are scaled to the photo and nothing else.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data.detection.boxes import Floats, keep_best
from data.detection.detections import Detections, DetectorError, open_session

Arrays = dict[int, list[NDArray[Any]]]  # outputs [n, width] by their width, in the file's order

_SIDE: Final = 640  # of the input, where the file leaves it open
_LEAST: Final = 0.5  # score of a face
_OVERLAP: Final = 0.4
_STRIDES: Final = {3: (8, 16, 32), 5: (8, 16, 32, 64, 128)}
_ANCHOR_SIDES: Final = {8: (16, 32), 16: (64, 128), 32: (256, 512)}  # of RetinaFace, in pixels
_CENTRE_UNIT, _SIDE_UNIT = 0.1, 0.2  # of RetinaFace's offsets ("variances")
_MEAN_BGR: Final = (104.0, 117.0, 123.0)  # what RetinaFace subtracts
_EXPECTED: Final = (
    "expected SCRFD with landmarks (9 or 15 outputs: scores [n, 1], distances [n, 4], landmarks "
    "[n, 10] for each stride) or RetinaFace (3 outputs: offsets [n, 4], scores [n, 2], landmarks "
    "[n, 10])"
)


class AnchorDetector:
    """A detector from a file; whether it is SCRFD or RetinaFace shows in its outputs."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._session = open_session(file)
        inputs = self._session.get_inputs()
        shape = inputs[0].shape
        if len(inputs) != 1 or len(shape) != 4 or shape[1] != 3:
            raise DetectorError(f"{file} takes {[i.shape for i in inputs]}: expected [1, 3, h, w]")
        count = len(self._session.get_outputs())
        if count not in (3, 9, 15):
            raise DetectorError(f"{file} has {count} outputs: {_EXPECTED}")
        self._is_retinaface = count == 3
        self._height, self._width = (
            side if isinstance(side, int) and side > 0 else _SIDE for side in shape[2:]
        )
        self.detect(Image.new("RGB", (32, 32)))  # the outputs' shapes are known after a run

    def detect(self, image: Image.Image) -> Detections:
        """Return the faces in an RGB image, best first."""
        scale = min(self._width / image.width, self._height / image.height)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        canvas = Image.new("RGB", (self._width, self._height))
        canvas.paste(image.resize(size, Image.Resampling.BILINEAR, reducing_gap=3), (0, 0))
        outputs = self._by_width(self._session.run(None, self._input(canvas)))
        decode = self._retinaface if self._is_retinaface else self._scrfd
        boxes, scores, points = decode(outputs)
        likely = scores >= _LEAST
        boxes, scores, points = boxes[likely], scores[likely], points[likely]
        kept = keep_best(boxes, scores, _OVERLAP)
        ratio = np.array((image.width / size[0], image.height / size[1]), np.float32)
        return Detections(
            boxes[kept] * np.tile(ratio, 2),
            scores[kept],
            points[kept].astype(np.float64) * ratio,
        )

    def _input(self, canvas: Image.Image) -> dict[str, Floats]:
        pixels: Floats = np.asarray(canvas, np.float32)
        if self._is_retinaface:
            pixels = pixels[:, :, ::-1] - np.array(_MEAN_BGR, np.float32)
        else:
            pixels = ((pixels - 127.5) / 128).astype(np.float32)
        name = self._session.get_inputs()[0].name
        return {name: np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])}

    def _by_width(self, outputs: list[NDArray[Any]]) -> Arrays:
        """Group the outputs [n, width] or [1, n, width] by their width."""
        found: Arrays = {}
        for output in outputs:
            if output.ndim not in (2, 3) or (output.ndim == 3 and len(output) != 1):
                raise DetectorError(f"{self._file} gives an output {output.shape}: {_EXPECTED}")
            found.setdefault(output.shape[-1], []).append(output.reshape(-1, output.shape[-1]))
        score = 2 if self._is_retinaface else 1
        lengths = {width: sorted(len(output) for output in group) for width, group in found.items()}
        if set(found) != {score, 4, 10} or len({str(each) for each in lengths.values()}) != 1:
            shapes = [list(output.shape) for output in outputs]
            raise DetectorError(f"{self._file} gives {shapes}: {_EXPECTED}")
        return found

    def _cells(self, stride: int, length: int) -> tuple[Floats, int]:
        """Return the corner (x, y) of each cell of a grid, row by row, and the anchors per cell."""
        rows, columns = -(-self._height // stride), -(-self._width // stride)
        if length not in (rows * columns, 2 * rows * columns):
            raise DetectorError(
                f"{self._file} gives {length} anchors at stride {stride}: expected 1 or 2 for each "
                f"of {columns}x{rows} cells"
            )
        y, x = np.mgrid[:rows, :columns]
        return np.stack((x, y), axis=2).reshape(-1, 2).astype(np.float32), length // y.size

    def _scrfd(self, outputs: Arrays) -> tuple[Floats, Floats, Floats]:
        """Return boxes [n, 4], scores [n] and landmarks [n, 5, 2] of all anchors."""
        boxes, points = [], []
        strides = _STRIDES[len(outputs[1])]
        # The finest grid has the most cells; files differ in the order of their outputs.
        groups = [sorted(outputs[width], key=len, reverse=True) for width in (1, 4, 10)]
        for stride, distances, places in zip(strides, *groups[1:], strict=True):
            cells, anchors = self._cells(stride, len(distances))
            corner = np.repeat(cells, anchors, axis=0) * stride
            before, after = distances[:, :2] * stride, distances[:, 2:] * stride
            boxes.append(np.concatenate((corner - before, corner + after), axis=1))
            points.append(corner[:, None] + places.reshape(-1, 5, 2) * stride)
        return np.concatenate(boxes), np.concatenate(groups[0])[:, 0], np.concatenate(points)

    def _retinaface(self, outputs: Arrays) -> tuple[Floats, Floats, Floats]:
        """Return boxes [n, 4], scores [n] and landmarks [n, 5, 2] of all anchors."""
        offsets, places, chances = outputs[4][0], outputs[10][0], outputs[2][0]
        centres, sides = [], []
        for stride, two in _ANCHOR_SIDES.items():
            cells = -(-self._height // stride) * -(-self._width // stride)
            corners, _ = self._cells(stride, 2 * cells)
            centres.append(np.repeat((corners + 0.5) * stride, 2, axis=0))
            sides.append(np.tile(np.array(two, np.float32), cells))
        centre, side = np.concatenate(centres), np.concatenate(sides)[:, None]
        if len(centre) != len(offsets):
            raise DetectorError(
                f"{self._file} gives {len(offsets)} anchors: expected {len(centre)} for "
                f"{self._width}x{self._height} pixels"
            )
        middle = centre + offsets[:, :2] * _CENTRE_UNIT * side
        half = np.exp(offsets[:, 2:] * _SIDE_UNIT) * side / 2
        points = centre[:, None] + places.reshape(-1, 5, 2) * (_CENTRE_UNIT * side[:, None])
        if not np.allclose(chances.sum(axis=1), 1, atol=1e-3):  # exported without the softmax
            chances = np.exp(chances - chances.max(axis=1, keepdims=True))
            chances = chances / chances.sum(axis=1, keepdims=True)
        boxes: Floats = np.concatenate((middle - half, middle + half), axis=1)
        return boxes, chances[:, 1], points.astype(np.float32)
