"""Tests of `eval.suites.models`; the forms themselves have tests of their own."""

import hashlib
from pathlib import Path

import pytest
import torch
from torch import Tensor

from eval.suites.models import PixelFormat, load_models
from tests.eval.test_exported_model import Means, write

CPU = torch.device("cpu")


def test_the_input_is_adapted() -> None:
    images = torch.rand(2, 3, 4, 4) * 2 - 1

    def same(images: Tensor) -> Tensor:
        return images

    assert torch.equal(PixelFormat().adapt(same)(images), images)
    assert torch.equal(PixelFormat(channels="bgr").adapt(same)(images), images[:, [2, 1, 0]])
    pixels = PixelFormat(mean=0, std=1).adapt(same)(images)
    torch.testing.assert_close(pixels, images * 127.5 + 127.5)
    with pytest.raises(ValueError, match="0"):
        PixelFormat(std=0)


def test_models_have_names_of_their_own(tmp_path: Path) -> None:
    images = torch.ones(2, 3, 8, 8)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    paths = [
        write(tmp_path / name, Means(), images) for name in ("a/net.pt2", "b/net.pt2", "mean.pt2")
    ]
    models = load_models(paths, CPU, pixels=PixelFormat())
    assert [model.name for model in models] == [str(paths[0]), str(paths[1]), "mean"]
    assert {model.kind for model in models} == {"torch.export"}
    assert models[2].sha256 == hashlib.sha256(paths[2].read_bytes()).hexdigest()
    assert models[2].image_size == 8
    with pytest.raises(ValueError, match="once"):
        load_models([paths[0], paths[0]], CPU, pixels=PixelFormat())
    with pytest.raises(ValueError, match="--image-size is 9"):
        load_models(paths, CPU, pixels=PixelFormat(), image_size=9)
    with pytest.raises(ValueError, match="absent"):
        load_models([tmp_path / "absent.pt2"], CPU, pixels=PixelFormat())
