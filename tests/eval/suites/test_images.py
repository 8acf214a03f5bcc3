"""Tests of `eval.suites.images`: what is embedded, and what the cache spares."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from data.alignment import TEMPLATE
from eval.suites.images import Embedder, FaceCrops, ImageList, ImageSet, image_set
from eval.suites.models import LoadedModel
from recognition.distributed import World
from recognition.inference import PixelFormat


def colours(images: Tensor) -> Tensor:
    """Return the mean of each channel, and of the left half."""
    return torch.cat([images.mean((2, 3)), images[..., :4].mean((2, 3))], dim=1)


MODEL = LoadedModel("colours", colours, 8, Path("m.onnx"), "ab", "onnx", PixelFormat(), {})


@pytest.fixture
def images(tmp_path: Path) -> ImageSet:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    for name, image in (("a", 0), ("b", 1), ("a2", 0), ("c", 2)):
        Image.fromarray(pixels[image]).save(tmp_path / f"{name}.png")
    return image_set(ImageList(tmp_path, ["a.png", "b.png", "a2.png", "c.png"]), 4)


def embedder(cache: Path | None, seen: list[int]) -> Embedder:
    return Embedder(torch.device("cpu"), World(), cache, 2, advance=seen.append)


def test_equal_images_are_one(images: ImageSet) -> None:
    assert images.unique.tolist() == [0, 1, 3]
    assert images.rows.tolist() == [0, 1, 0, 2]
    with pytest.raises(ValueError, match="no images"):
        image_set(images.source, 0)
    with pytest.raises(ValueError, match=r"absent\.png"):
        image_set(ImageList(Path("/nowhere"), ["absent.png"]), 1)


def test_a_second_time_costs_no_forward_pass(tmp_path: Path, images: ImageSet) -> None:
    seen: list[int] = []
    embed = embedder(tmp_path / "cache", seen)
    first = embed(MODEL, images)
    assert sum(seen) == 6
    assert first.embeddings.shape == (3, 2, 6)
    assert first.flipped is not None
    np.testing.assert_allclose(first.plain[:, :3], first.flipped[:, :3], atol=1e-6)
    second = embed(MODEL, images)
    assert sum(seen) == 6
    assert (first.cached, second.cached) == (False, True)
    assert np.array_equal(first.embeddings, second.embeddings)


def test_whatever_changes_embeddings_changes_the_key(tmp_path: Path, images: ImageSet) -> None:
    seen: list[int] = []
    embed = embedder(tmp_path / "cache", seen)
    embed(MODEL, images)
    others = [
        (embed, replace(MODEL, sha256="cd"), images),
        (embed, replace(MODEL, pixels=PixelFormat(channels="bgr")), images),
        (embed, replace(MODEL, image_size=16), images),
        (embed, replace(MODEL, details={"external_data": {"net.data": "12"}}), images),
        (embed, MODEL, replace(images, sha256="ef")),
        (replace(embed, flip=False), MODEL, images),
    ]
    for other in others:
        assert not other[0](*other[1:]).cached
    assert embed(MODEL, images).cached
    assert len(list((tmp_path / "cache").iterdir())) == 7


def test_a_damaged_file_is_embedded_again(
    tmp_path: Path, images: ImageSet, caplog: pytest.LogCaptureFixture
) -> None:
    embed = embedder(tmp_path / "cache", [])
    good = embed(MODEL, images)
    (file,) = (tmp_path / "cache").iterdir()
    content = bytearray(file.read_bytes())
    content[200] ^= 1
    for damaged in (bytes(content), bytes(content[:100]), b""):
        file.write_bytes(damaged)
        again = embed(MODEL, images)
        assert not again.cached
        assert np.array_equal(again.embeddings, good.embeddings)
    assert sum(file.name in record.message for record in caplog.records) == 3


def test_without_a_folder_nothing_is_kept(tmp_path: Path, images: ImageSet) -> None:
    before = set(tmp_path.rglob("*"))
    embed = embedder(None, [])
    one = embed(MODEL, images)
    two = embed(MODEL, images)
    assert (one.cached, two.cached) == (False, False)
    assert np.array_equal(one.embeddings, two.embeddings)
    assert set(tmp_path.rglob("*")) == before


def test_a_cache_that_cannot_be_written_costs_no_figures(
    tmp_path: Path, images: ImageSet, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("a file")
    assert len(embedder(tmp_path / "cache", [])(MODEL, images).embeddings) == 3
    assert any("cannot be written" in record.message for record in caplog.records)


def test_faces_are_cropped_by_their_landmarks(tmp_path: Path) -> None:
    pixels = np.zeros((200, 200, 3), np.uint8)
    pixels[40:152, 60:172, 0] = np.arange(112)[:, None]
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    files = ImageList(tmp_path, ["photo.png", "photo.png"])
    faces = FaceCrops(files, np.stack([TEMPLATE + np.array([60, 40]), TEMPLATE]), "published")
    images = image_set(faces, 2, faces.key)
    assert images.rows.tolist() == [0, 1]
    assert image_set(replace(faces, method="antialiased"), 2).sha256 != images.sha256
    (tmp_path / "face.bmp").write_bytes(faces.encoded(0))
    face = np.asarray(Image.open(tmp_path / "face.bmp"))
    assert face.shape == (112, 112, 3)
    assert np.abs(face[:, 5, 0].astype(int) - np.arange(112)).max() <= 1
    (tmp_path / "photo.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"photo\.png"):
        faces.encoded(0)
