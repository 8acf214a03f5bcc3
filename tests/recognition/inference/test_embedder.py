"""Tests of `recognition.inference.embedder`."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from backbones import build_for_weights, read_weights
from recognition import FaceEmbedder
from recognition.inference import FaceError, PixelFormat
from tests.recognition.inference.small_run import EMBEDDING, SIZE, faces, write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"))


def test_embeddings_are_those_of_the_backbone(run: Path) -> None:
    pixels = faces(5)
    found = FaceEmbedder.load(run, device="cpu", batch_size=2).embed(pixels, normalise=False)
    file = next(run.glob("checkpoints/step_*/backbone.pt"))
    _, backbone = build_for_weights(read_weights(file), str(file), image_size=SIZE)
    images = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() - 127.5) / 127.5
    with torch.no_grad():
        expected = backbone.eval()(images).numpy()
    assert found.dtype == np.float32
    assert found.shape == (5, EMBEDDING)
    # Kernels may differ with the size of a batch; 30 roundings of float32 in a row.
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * np.abs(expected).max())
    with torch.no_grad():
        both = expected + backbone(images.flip(3)).numpy()
    flipped = FaceEmbedder.load(run, device="cpu", flip=True)
    assert flipped.image_size == SIZE
    np.testing.assert_allclose(
        flipped.embed(pixels), both / np.linalg.norm(both, axis=1, keepdims=True), atol=1e-6
    )


def test_arrays_lists_and_paths_are_the_same_faces(run: Path, tmp_path: Path) -> None:
    pixels = faces(3)
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path, face in zip(paths, pixels, strict=True):
        Image.fromarray(face).save(path)
    embedder = FaceEmbedder.load(str(run), device="cpu")
    expected = embedder.embed(pixels)
    np.testing.assert_allclose(np.linalg.norm(expected, axis=1), 1, rtol=1e-6)
    for same in (list(pixels), paths, [str(paths[0]), pixels[1], paths[2]]):
        assert np.array_equal(embedder.embed(same), expected)
    for one in (pixels[0], paths[0], str(paths[0])):
        np.testing.assert_allclose(embedder.embed(one), expected[:1], atol=1e-6)


def test_other_sizes_are_resized_as_in_training(run: Path) -> None:
    embedder = FaceEmbedder.load(run, device="cpu")
    large = faces(1, 2 * SIZE)
    small = Image.fromarray(large[0]).resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    assert np.array_equal(embedder.embed(large), embedder.embed(np.asarray(small)))


def test_the_pixel_format_can_be_stated(run: Path) -> None:
    pixels = faces(2)
    bgr = FaceEmbedder.load(run, device="cpu", pixels=PixelFormat(channels="bgr"))
    plain = FaceEmbedder.load(run, device="cpu")
    np.testing.assert_allclose(bgr.embed(pixels[..., ::-1]), plain.embed(pixels), atol=1e-6)


def test_what_is_no_face_is_refused(run: Path, tmp_path: Path) -> None:
    embedder = FaceEmbedder.load(run, device="cpu")
    text = tmp_path / "a.jpg"
    text.write_text("no image")
    for wrong, found in (
        (faces(2).astype(np.float32), "float32"),
        (faces(2)[:, :20], r"\[20, 32, 3\]"),
        (faces(2)[..., :2], "2"),
        (faces(2)[0, 0], r"\[32, 3\]"),
        ([faces(1)[0], None], "face 1"),
        ([], "no faces"),
        (None, "NoneType"),
        ((face for face in faces(2)), "generator"),
        (text, "a.jpg"),
        (tmp_path / "absent.png", "absent.png"),
    ):
        with pytest.raises(FaceError, match=found):
            embedder.embed(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="absent"):
        FaceEmbedder.load(tmp_path / "absent")
    with pytest.raises(ValueError, match="batch_size is 0"):
        FaceEmbedder.load(run, device="cpu", batch_size=0)


@pytest.mark.slow
def test_importing_the_package_is_fast_and_the_wheel_holds_what_it_needs(run: Path) -> None:
    code = (
        "import sys, recognition; assert 'torch' not in sys.modules; import numpy as np;"
        f"found = recognition.FaceEmbedder.load({str(run)!r}, device='cpu')"
        f".embed(np.zeros((1, {SIZE}, {SIZE}, 3), np.uint8));"
        f"assert found.shape == (1, {EMBEDDING});"
        "assert not {'data', 'eval', 'recognition.head'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
