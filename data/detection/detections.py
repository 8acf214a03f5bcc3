"""What a detector gives, and what every detector needs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image


class DetectorError(ValueError):
    """A detector that is missing or does not fit; says what was found and what to do."""


@dataclass(frozen=True)
class Detections:
    """The faces in an image, best first, in its pixels."""

    boxes: NDArray[np.float32]  # [n, 4], left, top, right, bottom, from the corner of the image
    scores: NDArray[np.float32]  # [n], 0 to 1
    points: NDArray[np.float64]  # [n, 5, 2], landmarks as `data.alignment` takes them

    @classmethod
    def none(cls) -> "Detections":
        """Return no faces."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros((0, 5, 2)))

    def __len__(self) -> int:
        return len(self.scores)


class Detector(Protocol):
    """Finds faces and their landmarks."""

    def detect(self, image: Image.Image) -> Detections:
        """Return the faces in an RGB image, best first."""


def open_session(path: Path) -> Any:
    """Open an ONNX file with one thread: photos are worked on side by side."""
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise DetectorError(
            "detection needs onnxruntime: run pip install -e '.[detect]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's own exceptions have no common base
        raise DetectorError(f"{path} cannot be opened as an ONNX file: {error}") from error
