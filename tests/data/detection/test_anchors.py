from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.detection.anchors import AnchorDetector
from data.detection.detections import DetectorError
from tests.data.detection.models import FACE, POINTS, bright_cells, constant_model

POINTS_IN_STRIDES = np.arange(10, dtype=np.float32).reshape(5, 2) / 4


def scrfd(
    path: Path, size: tuple[int, int], cell: tuple[int, int, int, int], *,
    anchors: int = 2, fixed: bool = True, shuffled: bool = False, batch: bool = False,
    strides: tuple[int, ...] = (8, 16, 32),
) -> Path:  # fmt: skip
    """Write an SCRFD for (height, width) that sees a face at (stride, row, column, anchor)."""
    groups: list[list[np.ndarray]] = [[], [], []]
    for stride in strides:
        rows, columns = -(-size[0] // stride), -(-size[1] // stride)
        for group, width in zip(groups, (1, 4, 10), strict=True):
            group.append(np.zeros((rows, columns, anchors, width), np.float32))
        if stride == cell[0]:
            groups[0][-1][cell[1:]] = 0.75
            groups[1][-1][cell[1:]] = (1, 2, 3, 4)
            groups[2][-1][cell[1:]] = POINTS_IN_STRIDES.reshape(-1)
    outputs = [array.reshape(-1, array.shape[-1]) for group in groups for array in group]
    if batch:
        outputs = [array[None] for array in outputs]
    if shuffled:
        outputs = [outputs[n] for n in np.random.default_rng(0).permutation(len(outputs))]
    return constant_model(path, outputs, size if fixed else None)


@pytest.mark.parametrize("cell", [(8, 3, 5, 1), (16, 1, 4, 0), (32, 1, 2, 1)])
@pytest.mark.parametrize(("shuffled", "batch"), [(False, False), (True, False), (False, True)])
def test_scrfd_is_decoded(
    tmp_path: Path, cell: tuple[int, int, int, int], shuffled: bool, batch: bool
) -> None:
    file = scrfd(tmp_path / "x.onnx", (64, 96), cell, shuffled=shuffled, batch=batch)
    found = AnchorDetector(file).detect(Image.new("RGB", (96, 64)))
    stride, row, column, _ = cell
    corner = np.array((column, row)) * stride
    assert found.scores.tolist() == [0.75]
    expected = [*(corner - stride * np.array((1, 2))), *(corner + stride * np.array((3, 4)))]
    np.testing.assert_allclose(found.boxes, [expected], rtol=1e-6)
    np.testing.assert_allclose(found.points[0], corner + stride * POINTS_IN_STRIDES, rtol=1e-6)


def test_one_anchor_per_cell_and_five_strides(tmp_path: Path) -> None:
    strides = (8, 16, 32, 64, 128)
    file = scrfd(tmp_path / "x.onnx", (128, 128), (64, 1, 1, 0), anchors=1, strides=strides)
    found = AnchorDetector(file).detect(Image.new("RGB", (128, 128)))
    np.testing.assert_allclose(found.boxes, [[0, -64, 256, 320]])


def test_an_open_input_is_640_pixels_and_results_are_in_the_photo(tmp_path: Path) -> None:
    file = scrfd(tmp_path / "x.onnx", (640, 640), (16, 2, 3, 0), fixed=False)
    # 1280 x 320 becomes 640 x 160: every place is twice as far from the corner.
    found = AnchorDetector(file).detect(Image.new("RGB", (1280, 320)))
    np.testing.assert_allclose(found.boxes, [[64, 0, 192, 192]])
    corner = np.array((48, 32))
    np.testing.assert_allclose(found.points[0], 2 * (corner + 16 * POINTS_IN_STRIDES))


@pytest.mark.parametrize("softmax", [True, False])
def test_retinaface_is_decoded(tmp_path: Path, softmax: bool) -> None:
    # 64 x 64 pixels: 8x8, 4x4 and 2x2 cells with two anchors each.
    count = 2 * (64 + 16 + 4)
    offsets, places = np.zeros((1, count, 4), np.float32), np.zeros((1, count, 10), np.float32)
    chances = np.tile(np.array([1, 0] if softmax else [4, 0], np.float32), (1, count, 1))
    # Stride 16, row 1, column 2, the second anchor: 128 pixels around (40, 24).
    index = 2 * 64 + 2 * (1 * 4 + 2) + 1
    chances[0, index] = (0.25, 0.75) if softmax else (0, np.log(3))
    offsets[0, index] = (0.5, -0.25, 5 * np.log(0.5), 5 * np.log(0.25))
    places[0, index] = POINTS_IN_STRIDES.reshape(-1)
    file = constant_model(tmp_path / "x.onnx", [offsets, chances, places], (64, 64))
    found = AnchorDetector(file).detect(Image.new("RGB", (64, 64)))
    np.testing.assert_allclose(found.scores, [0.75], rtol=1e-5)
    middle = np.array((40 + 6.4, 24 - 3.2))
    half = np.array((32, 16))
    np.testing.assert_allclose(found.boxes, [[*(middle - half), *(middle + half)]], rtol=1e-5)
    expected = np.array((40, 24)) + POINTS_IN_STRIDES * 12.8
    np.testing.assert_allclose(found.points[0], expected, rtol=1e-5)


def test_what_is_in_the_image_counts(tmp_path: Path) -> None:
    detector = AnchorDetector(bright_cells(tmp_path / "x.onnx"))
    image = Image.new("RGB", (128, 128))
    assert len(detector.detect(image)) == 0
    image.paste((255, 255, 255), (32, 64, 48, 80))  # cell (2, 4) of the copy of half the size
    image.paste((255, 255, 0), (96, 64, 112, 80))  # yellow is no white: a channel is dark
    found = detector.detect(image)
    np.testing.assert_allclose(found.boxes, [[32 - FACE, 64 - FACE, 32 + FACE, 64 + FACE]])
    np.testing.assert_allclose(found.points[0], 2 * POINTS + [32, 64], atol=1e-4)


def test_other_files_are_refused_with_what_they_give(tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(DetectorError, match=r"x\.onnx"):
        AnchorDetector(path)
    with pytest.raises(DetectorError, match=r"none\.onnx"):
        AnchorDetector(tmp_path / "none.onnx")
    zeros = [np.zeros((84, width), np.float32) for width in (1, 4)]
    with pytest.raises(DetectorError, match="2 outputs"):
        AnchorDetector(constant_model(path, zeros, (64, 64)))
    zeros = [np.zeros((84, width), np.float32) for width in (1, 4, 10)]
    with pytest.raises(DetectorError, match=r"\[84, 1\]"):
        AnchorDetector(constant_model(path, zeros, (64, 64)))
    zeros = [np.zeros((84, width), np.float32) for width in (2, 4, 10)]
    with pytest.raises(DetectorError, match="84 anchors: expected 168"):
        AnchorDetector(constant_model(path, zeros, (64, 64)))
    zeros = [np.zeros((n, width), np.float32) for width in (1, 4, 10) for n in (60, 16, 4)]
    with pytest.raises(DetectorError, match="60 anchors at stride 8"):
        AnchorDetector(constant_model(path, zeros, (64, 64)))
