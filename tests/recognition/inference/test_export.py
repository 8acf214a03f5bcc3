"""Tests of `recognition.inference.export` and of what reads its files again."""

import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from recognition import FaceEmbedder
from recognition.inference import PixelFormat, export, load_network
from recognition.inference.description import (
    CONFIG,
    Description,
    DescriptionError,
    ExportedFile,
    Threshold,
    sha256,
)
from recognition.inference.export import ExportError, difference, export_backbone
from recognition.inference.onnx_model import OnnxModel
from recognition.inference.quantise import to_fp16, to_int8
from tests.conftest import file_limit
from tests.recognition.inference.small_run import EMBEDDING, SIZE, faces, write_run

pytestmark = pytest.mark.slow  # tracing a network takes some seconds

CPU = torch.device("cpu")
FORMS = ("model.onnx", "model.pt2", "model.safetensors")

Facts = dict[str, str]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    backbone = load_network(run, CPU).module
    assert backbone is not None
    found = export_backbone(backbone, folder, image_size=SIZE, metadata={"backbone": "rtiny"})
    assert set(found) == {"model.onnx", "model.pt2"}
    assert max(found.values()) <= 1e-4
    thresholds = (Threshold(1e-4, 0.25, None, "lfw", 300_000),)
    files = {name: ExportedFile(sha256(folder / name), thresholds) for name in FORMS}
    description = Description("rtiny", EMBEDDING, SIZE, flip=True, files=files)
    (folder / CONFIG).write_text(description.to_json())
    return folder


@pytest.mark.parametrize("count", [1, 7])
def test_every_form_is_the_network_at_any_batch_size(run: Path, exported: Path, count: int) -> None:
    pixels = faces(count)
    expected = FaceEmbedder.load(run, device="cpu", batch_size=count, flip=True).embed(pixels)
    for path in (exported, *(exported / name for name in FORMS)):
        embedder = FaceEmbedder.load(path, device="cpu", batch_size=count)
        assert embedder.flip  # as the file's thresholds
        assert embedder.network.thresholds[0].cosine == 0.25
        np.testing.assert_allclose(embedder.embed(pixels), expected, atol=1e-5)


def test_the_onnx_file_describes_itself(exported: Path) -> None:
    model = onnx.load(exported / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [(one.domain, one.version) for one in model.opset_import] == [("", 18)]
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata == {"backbone": "rtiny", "mean": "127.5", "std": "127.5", "channels": "rgb"}
    assert [one.name for one in model.graph.output] == ["embeddings"]


def test_a_pixel_format_in_the_file_is_used(exported: Path, tmp_path: Path) -> None:
    model = onnx.load(exported / "model.onnx")
    for entry in model.metadata_props:
        if entry.key == "channels":
            entry.value = "bgr"
    path = tmp_path / "bgr.onnx"
    onnx.save(model, path)
    assert load_network(path, CPU).pixels == PixelFormat(channels="bgr")
    plain = FaceEmbedder.load(exported / "model.onnx", device="cpu", flip=False)
    pixels = faces(2)
    bgr = FaceEmbedder.load(path, device="cpu")
    np.testing.assert_allclose(bgr.embed(pixels[..., ::-1]), plain.embed(pixels), atol=1e-6)


def test_no_file_names_this_machine(exported: Path) -> None:
    own = str(Path(export.__file__).parents[2]).encode()
    for name in ("model.onnx", "model.safetensors"):
        assert own not in (exported / name).read_bytes()
    with zipfile.ZipFile(exported / "model.pt2") as archive:
        assert not any(own in archive.read(entry) for entry in archive.namelist())


def test_another_file_than_the_described_one_is_refused(exported: Path, tmp_path: Path) -> None:
    for name in (CONFIG, "model.onnx"):
        (tmp_path / name).write_bytes((exported / name).read_bytes())
    model = onnx.load(tmp_path / "model.onnx")
    model.producer_name = "another"
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(DescriptionError, match="SHA-256"):
        load_network(tmp_path / "model.onnx", CPU)
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        load_network(tmp_path, CPU)
    (tmp_path / CONFIG).write_text('{"format": "partialfc-1"}')
    with pytest.raises(DescriptionError, match="pixels"):
        load_network(tmp_path / "model.onnx", CPU)
    (tmp_path / CONFIG).write_text('{"model_type": "bert"}')  # other software's
    assert load_network(tmp_path / "model.onnx", CPU).thresholds == ()


def test_a_file_that_differs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = export.write_onnx

    def write_damaged(program: torch.export.ExportedProgram, path: Path, facts: Facts) -> None:
        original(program, path, facts)
        model = onnx.load(path)
        (weight,) = (one for one in model.graph.initializer if list(one.dims) == [4, 192])
        values = numpy_helper.to_array(weight) * np.float32(1.001)
        weight.CopyFrom(numpy_helper.from_array(values, weight.name))
        onnx.save(model, path)

    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    assert max(export_backbone(network, tmp_path, image_size=8, metadata={}).values()) < 1e-6
    monkeypatch.setattr(export, "write_onnx", write_damaged)
    with pytest.raises(ExportError, match=r"model\.onnx"):
        export_backbone(network, tmp_path, image_size=8, metadata={})


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    linear = nn.Linear(192, 4)
    nn.init.constant_(linear.bias, float("nan"))
    network = nn.Sequential(nn.Flatten(), linear)
    with pytest.raises(ExportError, match="network makes embeddings that are not finite"):
        export_backbone(network, tmp_path, image_size=8, metadata={})
    assert not list(tmp_path.iterdir())


def test_fewer_bits(run: Path, exported: Path, tmp_path: Path) -> None:
    backbone = load_network(run, CPU).module
    assert backbone is not None
    source = exported / "model.onnx"
    images = torch.from_numpy(faces(32)).permute(0, 3, 1, 2).float().sub(127.5).div(127.5)
    batches = [part.contiguous().numpy() for part in torch.split(images, 16)]
    to_fp16(source, tmp_path / "fp16.onnx")
    to_int8(source, tmp_path / "int8.onnx", batches)
    sizes = []
    for name, tolerance in (("fp16", 1e-2), ("int8", 0.3)):
        path = tmp_path / f"{name}.onnx"
        (image,) = onnx.load(path).graph.input
        assert image.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        assert 1e-5 < difference(backbone, OnnxModel(path, CPU), SIZE) < tolerance
        sizes.append(path.stat().st_size)
    assert sizes[1] < 0.6 * sizes[0] < 0.4 * source.stat().st_size


def test_a_full_disk_is_an_error_and_no_end_of_the_process(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = load_network(run, CPU).module
    assert backbone is not None
    monkeypatch.setattr(export, "write_safetensors", lambda *_: None)
    with file_limit(5000), pytest.raises(OSError, match="File too large"):
        export_backbone(backbone, tmp_path, image_size=SIZE, metadata={})
    assert [item.name for item in tmp_path.iterdir()] == ["model.pt2"]


def test_images_that_cannot_be_read_are_not_called_a_full_disk(
    exported: Path, tmp_path: Path
) -> None:
    def unreadable() -> Iterator[np.ndarray]:
        raise OSError("their disk is gone")
        yield

    with pytest.raises(ValueError, match=r"calibrate int8\.onnx by: their disk is gone"):
        to_int8(exported / "model.onnx", tmp_path / "int8.onnx", unreadable())


def test_it_is_a_recognition_model_of_insightface(exported: Path) -> None:
    arcface_onnx = pytest.importorskip("insightface.model_zoo.arcface_onnx")
    path = exported / "model.onnx"
    model = arcface_onnx.ArcFaceONNX(str(path))
    assert (model.input_mean, model.input_std) == (127.5, 127.5)
    assert model.input_size == (SIZE, SIZE)
    pixels = faces(3)
    expected = FaceEmbedder.load(path, device="cpu", flip=False).embed(pixels, normalise=False)
    found = model.get_feat([np.ascontiguousarray(face[..., ::-1]) for face in pixels])  # BGR
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    one = model.get_feat(np.ascontiguousarray(pixels[0][..., ::-1]))
    np.testing.assert_allclose(one, expected[:1], atol=1e-5 * np.abs(expected).max())
