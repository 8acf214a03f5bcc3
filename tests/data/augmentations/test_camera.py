import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.ndimage import gaussian_filter1d
from torchvision.transforms.v2.functional import resize

from data.augmentations.camera import blurred, low_resolution
from tests.data.augmentations.helpers import count_operations, decisions, noise

SIDES = [16, 37, 112]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("sigma", [0.1, 1.3, 6.0])
def test_blur_is_the_gaussian_filter_of_scipy(side: int, sigma: float) -> None:
    pixels = noise(3, side)
    expected = pixels.double().numpy()
    for axis in (1, 2):
        radius = math.ceil(3 * sigma)
        expected = gaussian_filter1d(expected, sigma, axis, mode="nearest", radius=radius)
    result = blurred(pixels.clone(), decisions(3), low=sigma, high=sigma)
    assert result.shape == pixels.shape
    assert np.abs(result.numpy() - expected).max() < 2e-4, "about ten rounding errors of 255"


def test_sigmas_fill_their_range_and_differ_by_sample() -> None:
    pixels = torch.zeros(400, 33, 33, 3)
    pixels[:, 16, 16] = 255
    result = blurred(pixels, decisions(400), low=1.0, high=2.0).double()[..., 0] / 255
    distance = torch.arange(33, dtype=torch.float64) - 16
    sigmas = ((result * distance**2).sum(dim=(1, 2)) / result.sum(dim=(1, 2))).sqrt()
    assert sigmas.min() > 0.98  # the filter ends at 6 of the smallest sigmas, 3 of the largest
    assert 1.9 < sigmas.max() < 2.0
    assert abs(sigmas.mean() - 1.48) < 4 * 0.29 / math.sqrt(400)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("fraction", [0.2, 0.55, 0.97])
def test_low_resolution_is_two_resizes_of_pillow(side: int, fraction: float) -> None:
    pixels = noise(2, side)
    small = round(fraction * side)
    result = low_resolution(pixels.clone(), decisions(2), low=fraction, high=fraction)
    for image, pixel in zip(result, pixels, strict=True):
        for channel in range(3):
            plane = Image.fromarray(pixel[..., channel].numpy())
            reduced = plane.resize((small, small), Image.Resampling.BILINEAR)
            expected = np.asarray(reduced.resize((side, side), Image.Resampling.BILINEAR))
            # Positions of up to 112 pixels are off by 2^-24 of that in float32, so two resizes of
            # levels up to 255 apart by 4e-3. Another filter would be off by several levels.
            assert np.abs(image[..., channel].numpy() - expected).max() < 1e-2


@pytest.mark.parametrize("side", SIDES)
def test_low_resolution_is_one_resize_after_the_other(side: int) -> None:
    pixels, decide = noise(20, side), decisions(20)
    sides = (decide.between("low resolution side", 0.2, 1.0) * side).round().int().tolist()
    result = low_resolution(pixels.clone(), decide, low=0.2, high=1.0)
    for image, pixel, small in zip(result, pixels.permute(0, 3, 1, 2), sides, strict=True):
        reduced = F.interpolate(pixel[None], (small, small), mode="bilinear", antialias=True)
        expected = F.interpolate(reduced, (side, side), mode="bilinear")[0].permute(1, 2, 0)
        # Torch adds the products of some pixels in another order, and on processors without AVX2
        # makes their weights otherwise: up to 6e-4, a third of what both are off in float32.
        assert (image - expected).abs().max() < 2e-3


def test_the_number_of_operations_does_not_depend_on_the_batch() -> None:
    change = partial(low_resolution, low=0.5, high=0.5)
    assert len({count_operations(change, count) for count in (1, 3, 40)}) == 1


def test_each_sample_has_its_own_resolution() -> None:
    side = 32
    pixels = noise(100, side)
    result = low_resolution(pixels.clone(), decisions(100), low=0.25, high=1.0)
    found = []
    for image, pixel in zip(result, pixels, strict=True):
        planes = pixel.permute(2, 0, 1)
        for small in range(8, 33):
            expected = resize(resize(planes, [small, small], antialias=True), [side, side])
            if (image.permute(2, 0, 1) - expected).abs().max() < 1e-2:
                found.append(small)
                break
    assert len(found) == 100, "each one is two resizes of torchvision"
    assert (min(found), max(found)) == (8, 32)
    assert len(set(found)) > 20


def test_full_resolution_changes_nothing_and_a_single_pixel_is_possible() -> None:
    pixels = noise(2, 16)
    assert torch.equal(low_resolution(pixels.clone(), decisions(2), low=1.0, high=1.0), pixels)
    result = low_resolution(pixels.clone(), decisions(2), low=1e-6, high=1e-6)
    assert (result - result[:, :1, :1]).abs().max() < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("level", [0.0, 200.0, 255.0])
def test_a_uniform_picture_stays_the_same_and_within_range(level: float) -> None:
    even = torch.full((20, 37, 37, 3), level)
    for result in (
        blurred(even.clone(), decisions(20), low=0.5, high=3.0),
        low_resolution(even.clone(), decisions(20), low=0.1, high=1.0),
    ):
        assert (result - level).abs().max() < 1e-3
        assert result.min() >= 0
        assert result.max() <= 255
