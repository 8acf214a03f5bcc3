from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from recognition.inference.onnx_model import OnnxModel, OnnxModelError

CPU = torch.device("cpu")
IMAGES = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
EXPECTED = torch.nn.functional.avg_pool2d(IMAGES, 4).flatten(1)


def write_network(
    path: Path,
    shape: tuple[Any, ...] = ("n", 3, 16, 16),
    dtype: int = TensorProto.FLOAT,
    last: str = "Flatten",
    outputs: int = 1,
) -> Path:
    """A network that averages squares of pixels; the embedding is the resulting small image."""
    names = [f"embedding{i}" for i in range(outputs)]
    pool = helper.make_node(
        "AveragePool", ["input"], ["small"], kernel_shape=[4, 4], strides=[4, 4]
    )
    inputs = ["small", "one_row"] if last == "Reshape" else ["small"]
    nodes = [pool, *(helper.make_node(last, inputs, [name]) for name in names)]
    graph = helper.make_graph(
        nodes,
        "average",
        [helper.make_tensor_value_info("input", dtype, shape)],
        [helper.make_tensor_value_info(name, dtype, None) for name in names],
        [helper.make_tensor("one_row", TensorProto.INT64, [2], [1, 48])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(path))
    return path


@pytest.mark.parametrize("batch", ["n", 1, 2, 8])
def test_every_file_runs_with_any_number_of_images(tmp_path: Path, batch: int | str) -> None:
    model = OnnxModel(write_network(tmp_path / "net.onnx", (batch, 3, 16, 16)), CPU)
    for count in (1, 2, 5):
        embeddings = model(IMAGES[:count])
        assert embeddings.dtype == torch.float32
        torch.testing.assert_close(embeddings, EXPECTED[:count])
    assert model.image_size == 16
    assert model.provider == "CPUExecutionProvider"


def test_channels_last_images_are_accepted(tmp_path: Path) -> None:
    model = OnnxModel(write_network(tmp_path / "net.onnx"), CPU)
    images = IMAGES.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(model(images), EXPECTED)


def test_an_open_image_size_and_half_precision(tmp_path: Path) -> None:
    path = write_network(tmp_path / "net.onnx", ("n", 3, "h", "w"), TensorProto.FLOAT16)
    model = OnnxModel(path, CPU)
    assert model.image_size is None
    embeddings = model(IMAGES)
    assert embeddings.dtype == torch.float32
    torch.testing.assert_close(embeddings, EXPECTED, atol=2e-3, rtol=0)  # float16 has 11 bits


@pytest.mark.parametrize(
    ("network", "found"),
    [
        ({"shape": ("n", 16, 16, 3)}, r"\['n', 16, 16, 3\]"),
        ({"shape": ("n", 1, 16, 16)}, r"\['n', 1, 16, 16\]"),
        ({"shape": ("n", 3, 16, 12)}, r"\['n', 3, 16, 12\]"),
        ({"dtype": TensorProto.INT8, "last": "Identity"}, r"tensor\(int8\)"),
        ({"outputs": 2}, r"2 .*embedding0 .*embedding1 "),
    ],
)
def test_other_networks_are_refused(tmp_path: Path, network: dict[str, Any], found: str) -> None:
    path = write_network(tmp_path / "net.onnx", **network)
    with pytest.raises(OnnxModelError, match=rf"net\.onnx: .*{found}"):
        OnnxModel(path, CPU)


def test_wrong_images_and_outputs_are_named(tmp_path: Path) -> None:
    model = OnnxModel(write_network(tmp_path / "net.onnx"), CPU)
    with pytest.raises(OnnxModelError, match=r"\[n, 3, 16, 16\].*\[5, 3, 8, 8\]"):
        model(IMAGES[:, :, :8, :8])
    path = write_network(tmp_path / "map.onnx", last="Identity")
    with pytest.raises(OnnxModelError, match=r"map\.onnx: .*\(5, 3, 4, 4\) .* 5 "):
        OnnxModel(path, CPU)(IMAGES)
    model = OnnxModel(write_network(tmp_path / "one.onnx", last="Reshape"), CPU)
    torch.testing.assert_close(model(IMAGES[:1]), EXPECTED[:1])
    with pytest.raises(OnnxModelError, match=r"one\.onnx: .*\[5, 3, 16, 16\]"):
        model(IMAGES)


def test_files_that_are_not_networks_are_refused(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(OnnxModelError, match=r"net\.onnx"):
        OnnxModel(tmp_path / "net.onnx", CPU)
    # onnxruntime's message for an output that no node makes ends in a new line.
    content = write_network(tmp_path / "net.onnx").read_bytes()
    position = content.rindex(b"embedding")
    (tmp_path / "net.onnx").write_bytes(content[:position] + b"Embedding" + content[position + 9 :])
    with pytest.raises(OnnxModelError, match=r"net\.onnx") as caught:
        OnnxModel(tmp_path / "net.onnx", CPU)
    assert "\n" not in str(caught.value)
    with pytest.raises(OnnxModelError, match=r"absent\.onnx"):
        OnnxModel(tmp_path / "absent.onnx", CPU)


def test_without_onnxruntime_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'partialfc\[onnx\]'"):
        OnnxModel(write_network(tmp_path / "net.onnx"), CPU)


def test_embeddings_do_not_depend_on_the_padding(tmp_path: Path) -> None:
    whole = OnnxModel(write_network(tmp_path / "a.onnx"), CPU)(IMAGES)
    padded = OnnxModel(write_network(tmp_path / "b.onnx", (4, 3, 16, 16)), CPU)(IMAGES)
    assert np.array_equal(whole.numpy(), padded.numpy())
