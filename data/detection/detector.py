"""Opens a detector."""

from pathlib import Path

from data.detection.anchors import AnchorDetector
from data.detection.detections import Detector
from data.detection.mtcnn import Mtcnn


def open_detector(file: Path | None = None) -> Detector:
    """Open an ONNX file of SCRFD or RetinaFace, by default the MTCNN of an installed package.

    Raises `DetectorError` if there is none, or if the file is something else.
    """
    return Mtcnn() if file is None else AnchorDetector(file)
