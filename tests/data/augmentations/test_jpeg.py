from io import BytesIO

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch import Tensor

from data.augmentations.decisions import Decisions
from data.augmentations.jpeg import compressed, quantisation_steps
from tests.data.augmentations.helpers import decisions, noise, pictures


def _file(image: Tensor, quality: int) -> Image.Image:
    """Return an opened JPEG file of pixels [S, S, 3]."""
    file = BytesIO()
    Image.fromarray(image.byte().numpy()).save(file, "JPEG", quality=quality)
    return Image.open(file)


def _by_pillow(pixels: Tensor, quality: int) -> npt.NDArray[np.float64]:
    return np.stack([np.asarray(_file(image, quality), np.float64) for image in pixels])


def _ours(pixels: Tensor, quality: int) -> npt.NDArray[np.float64]:
    result = compressed(pixels.clone(), decisions(len(pixels)), low=quality, high=quality)
    return result.double().numpy()


def test_the_tables_are_those_of_every_quality() -> None:
    steps = quantisation_steps(torch.arange(1, 101))
    assert steps.shape == (2, 100, 64)
    for quality in range(1, 101):
        tables = _file(noise(1, 16)[0], quality).quantization  # type: ignore[attr-defined]
        assert steps[:, quality - 1].tolist() == [tables[0], tables[1]]


@pytest.mark.slow
@pytest.mark.parametrize("side", [16, 48, 112])
@pytest.mark.parametrize("quality", [1, 25, 75, 100])
def test_uniform_blocks_are_bit_identical_to_pillow(side: int, quality: int) -> None:
    # One colour per 16x16 pixels tests colours, subsampling, steps, ties and upsampling, and of the
    # transform only the mean, which libjpeg does not round.
    pixels = noise(4, side // 16).repeat_interleave(16, dim=1).repeat_interleave(16, dim=2)
    assert np.array_equal(_ours(pixels, quality), _by_pillow(pixels, quality))


# libjpeg rounds between rows and columns, to about an eighth of a level, so coefficients that close
# to the middle between two steps may be rounded the other way. The finer the steps, the more often
# that happens, and the less it changes.
@pytest.mark.slow
@pytest.mark.parametrize("side", [16, 37, 112, 130])
@pytest.mark.parametrize(
    ("quality", "equal"), [(5, 0.95), (20, 0.9), (50, 0.75), (80, 0.6), (95, 0.5), (100, 0.75)]
)
def test_pixels_are_close_to_those_of_pillow(side: int, quality: int, equal: float) -> None:
    pixels = pictures(4, side)
    ours, theirs = _ours(pixels, quality), _by_pillow(pixels, quality)
    difference = np.abs(ours - theirs)
    assert (difference == 0).mean() > equal
    assert difference.mean() < 0.7
    loss = np.abs(theirs - pixels.numpy()).mean()
    assert difference.mean() < loss / 8, "far less than compression changes"


def test_each_sample_has_its_own_quality() -> None:
    pixels = pictures(1, 16).expand(300, -1, -1, -1).contiguous()
    result = compressed(pixels, decisions(300), low=30, high=34)
    known = [compressed(pictures(1, 16), decisions(1), low=q, high=q)[0] for q in range(30, 35)]
    equal = torch.stack([(result == image).flatten(1).all(dim=1) for image in known])
    assert equal.any(dim=0).all()
    assert (equal.sum(dim=1) >= 30).all(), "every quality of the range, about equally often"


@pytest.mark.slow
def test_the_bits_do_not_depend_on_the_order_of_sums() -> None:
    pixels = noise(40, 37)
    together = compressed(pixels.clone(), decisions(40), low=100, high=100)
    for row in range(40):
        alone = compressed(pixels[row : row + 1].clone(), decisions(1), low=100, high=100)
        assert torch.equal(alone[0], together[row])


def test_fractions_are_rounded_and_white_stays_white() -> None:
    pixels = noise(2, 16)
    pixels[0] = 255
    result = _ours(pixels, 100)
    assert np.array_equal(_ours((pixels + 0.3).clamp(0, 255), 100), result)
    assert (result[0] == 255).all()
    assert result.min() >= 0
    assert result.max() <= 255


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cpu_and_gpu_are_bit_identical() -> None:
    pixels = pictures(20, 37)
    numbers = torch.arange(20)
    decide = Decisions(0, torch.zeros_like(numbers), numbers, torch.device("cuda"))
    on_gpu = compressed(pixels.cuda(), decide, low=1, high=100).cpu()
    assert torch.equal(on_gpu, compressed(pixels, decisions(20), low=1, high=100))
