"""Small ONNX files with known outputs."""

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from data.alignment import TEMPLATE, Points

SIDE = 64  # of the input of `bright_cells`
FACE = 24.0  # side of the boxes that it gives
POINTS: Points = TEMPLATE / 112 * FACE - FACE / 2  # its landmarks, around the corner of the cell


def constant_model(
    path: Path, outputs: list[NDArray[np.float32]], side: tuple[int, int] | None
) -> Path:
    """Write a model that gives `outputs` whatever its input; `side` is (height, width)."""
    shape = [1, 3, *(("h", "w") if side is None else side)]
    nodes = [
        helper.make_node("Constant", [], [f"o{n}"], value=numpy_helper.from_array(array))
        for n, array in enumerate(outputs)
    ]
    infos = [
        helper.make_tensor_value_info(f"o{n}", TensorProto.FLOAT, array.shape)
        for n, array in enumerate(outputs)
    ]
    return _save(path, nodes, infos, shape)


def bright_cells(path: Path) -> Path:
    """Write an SCRFD that takes every white cell of 8x8 pixels, of 64x64, for a face.

    Its box is a square of 24 pixels around the cell's upper left corner.
    """
    nodes, infos = [], []

    def add(name: str, array: NDArray[np.float32]) -> None:
        value = numpy_helper.from_array(array)
        nodes.append(helper.make_node("Constant", [], [name], value=value))
        infos.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape))

    nodes.append(
        helper.make_node("AveragePool", ["input"], ["p"], kernel_shape=[8, 8], strides=[8, 8])
    )
    nodes.append(helper.make_node("ReduceMin", ["p"], ["m"], axes=[1], keepdims=0))
    shape = numpy_helper.from_array(np.array([-1, 1], np.int64))
    nodes.append(helper.make_node("Constant", [], ["shape"], value=shape))
    nodes.append(helper.make_node("Reshape", ["m", "shape"], ["s8"]))
    infos.append(helper.make_tensor_value_info("s8", TensorProto.FLOAT, [64, 1]))
    for stride, cells in ((16, 16), (32, 4)):
        add(f"s{stride}", np.zeros((cells, 1), np.float32))
    for stride, cells in ((8, 64), (16, 16), (32, 4)):
        add(f"b{stride}", np.full((cells, 4), FACE / 2 / stride, np.float32))
    for stride, cells in ((8, 64), (16, 16), (32, 4)):
        points = POINTS / stride
        add(f"k{stride}", np.tile(points.reshape(1, 10), (cells, 1)).astype(np.float32))
    return _save(path, nodes, infos, [1, 3, SIDE, SIDE])


def _save(
    path: Path,
    nodes: list[onnx.NodeProto],
    infos: list[onnx.ValueInfoProto],
    shape: list[int | str],
) -> Path:
    image = helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "g", [image], infos)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, path)
    return path
