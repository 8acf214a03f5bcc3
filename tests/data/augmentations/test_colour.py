import math

import pytest
import torch
from torchvision.transforms.v2.functional import adjust_hue

from data.augmentations.colour import hue_turned
from tests.data.augmentations.helpers import decisions, noise


@pytest.mark.parametrize("hue", [0.05, 0.5])
def test_hue_is_that_of_torchvision(hue: float) -> None:
    pixels = noise(30, 17)
    pixels[0, :8] = pixels[0, :8, :, :1]  # grey
    result = hue_turned(pixels.clone(), decisions(30), hue=hue)
    turns = decisions(30).between("hue", -hue, hue).tolist()
    for image, pixel, turn in zip(result, pixels, turns, strict=True):
        expected = adjust_hue(pixel.permute(2, 0, 1) / 255, turn).permute(1, 2, 0) * 255
        assert (image - expected).abs().max() < 0.01  # torchvision rounds at 1e-5 turns


def test_hues_turn_both_ways_within_their_range() -> None:
    red = torch.zeros(400, 2, 2, 3)
    red[..., 0] = 240
    result = hue_turned(red, decisions(400), hue=0.1)[:, 0, 0].double()
    turns = (result[:, 1] - result[:, 2]) / 240 / 6  # towards green, towards blue
    assert turns.abs().max() < 0.1 + 1e-6
    assert turns.min() < -0.095
    assert turns.max() > 0.095
    assert abs(turns.mean()) < 4 * 0.2 / math.sqrt(12 * 400)
    assert torch.equal(result[:, 0], torch.full((400,), 240.0, dtype=torch.float64))


def test_grey_is_not_changed_by_hue() -> None:
    grey = noise(5, 16)[..., :1].expand(-1, -1, -1, 3).contiguous()
    assert torch.equal(hue_turned(grey.clone(), decisions(5), hue=0.5), grey)
