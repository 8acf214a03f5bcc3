"""Tests of `eval.suites.models`; the forms themselves have tests of their own."""

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from eval.suites.models import external_data, load_models
from tests.recognition.inference.test_exported_model import Means, write

CPU = torch.device("cpu")


def test_models_have_names_of_their_own(tmp_path: Path) -> None:
    images = torch.ones(2, 3, 8, 8)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    paths = [
        write(tmp_path / name, Means(), images) for name in ("a/net.pt2", "b/net.pt2", "mean.pt2")
    ]
    models = load_models(paths, CPU)
    assert [model.name for model in models] == [str(paths[0]), str(paths[1]), "mean"]
    assert {model.kind for model in models} == {"torch.export"}
    assert models[2].sha256 == hashlib.sha256(paths[2].read_bytes()).hexdigest()
    assert models[2].image_size == 8
    with pytest.raises(ValueError, match="once"):
        load_models([paths[0], paths[0]], CPU)
    with pytest.raises(ValueError, match="expects 8"):
        load_models(paths, CPU, image_size=9)
    with pytest.raises(ValueError, match="absent"):
        load_models([tmp_path / "absent.pt2"], CPU)


def _write_with_weights(folder: Path, value: float, data: str) -> Path:
    """Write a network whose weight is in another file."""
    folder.mkdir(exist_ok=True)
    weight = numpy_helper.from_array(np.full((192, 300), value, np.float32), "weight")
    nodes = [
        helper.make_node("Flatten", ["input"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["embedding"]),
    ]
    inputs, outputs = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)]
        for name, shape in (("input", ("n", 3, 8, 8)), ("embedding", ("n", 300)))
    )
    graph = helper.make_graph(nodes, "weights", inputs, outputs, [weight])
    opsets = [helper.make_opsetid("", 13)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.save_model(
        model, str(folder / "net.onnx"), save_as_external_data=True, location=data, size_threshold=0
    )
    return folder / "net.onnx"


def test_weights_beside_an_onnx_file_are_part_of_what_it_is(tmp_path: Path) -> None:
    long = "w" * 200 + ".bin"
    paths = [
        _write_with_weights(tmp_path / "a", 1.0, "net.onnx.data"),
        _write_with_weights(tmp_path / "b", 2.0, "net.onnx.data"),
        _write_with_weights(tmp_path / "c", 2.0, long),
    ]
    one, two, three = load_models(paths, CPU)
    assert one.sha256 == two.sha256
    assert one.details != two.details
    (digest,) = two.details["external_data"].values()
    assert digest == hashlib.sha256((tmp_path / "b" / "net.onnx.data").read_bytes()).hexdigest()
    assert three.details["external_data"] == {long: digest}
    (tmp_path / "c" / long).unlink()
    assert external_data(paths[2]) == []
