"""Tests of `recognition.inference.pixels`."""

import pytest
import torch
from torch import Tensor

from recognition.inference.pixels import PixelFormat


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
    with pytest.raises(ValueError, match="RGB"):
        PixelFormat(channels="RGB")  # type: ignore[arg-type]
