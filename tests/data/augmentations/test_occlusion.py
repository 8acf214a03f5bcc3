from functools import partial

import pytest
import torch

from data.augmentations.occlusion import cut_out, masked
from tests.data.augmentations.helpers import count_operations, decisions, noise

EYES = [(38, 52), (74, 52)]  # x, y in the template of aligned faces
NOSE_AND_MOUTH = [(56, 72), (42, 92), (71, 92), (56, 100)]


@pytest.mark.slow
@pytest.mark.parametrize("side", [37, 112, 224])
def test_a_mask_covers_nose_and_mouth_and_leaves_the_upper_half(side: int) -> None:
    white, black = torch.full((60, side, side, 3), 255.0), torch.zeros(60, side, side, 3)
    over_white, over_black = masked(white, decisions(60)), masked(black, decisions(60))
    seen = ((over_white - over_black) / 255).double()  # 1 outside the mask, 0 under it
    assert (seen[:, : side // 2] == 1).all()
    for x, y in NOSE_AND_MOUTH:
        assert (seen[:, int(y * side / 112), int(x * side / 112)] < 1e-4).all()
    for x, y in EYES:
        assert (seen[:, int(y * side / 112), int(x * side / 112)] == 1).all()
    for corner in (seen[:, -1, 0], seen[:, -1, -1]):
        assert (corner > 1 - 1e-4).all(), "the mask ends before the corners"
    covered = (1 - seen).mean(dim=(1, 2, 3))
    assert covered.min() > 0.15
    assert covered.max() < 0.45
    assert covered.std() > 0.02
    soft = ((seen > 0.1) & (seen < 0.9)).sum(dim=(1, 2, 3)) / 3
    assert soft.min() > side / 4, "the edge is a pixel wide"
    assert soft.max() < 4 * side


def test_a_mask_is_what_its_docstring_says() -> None:
    side, unit = 28, 0.25
    pixels = noise(3, side)
    result = masked(pixels.clone(), decisions(3))
    decide = decisions(3)
    numbers = zip(
        *(
            decide.between(f"mask {name}", low, high).double().tolist()
            for name, low, high in (
                ("centre", 54, 58), ("top", 57, 68), ("drop", 2, 14), ("width", 35, 45),
                ("bottom", 102, 118), ("pleats", 8, 14), ("light", 40, 240),
                ("red", -40, 40), ("green", -40, 40), ("blue", -40, 40),
            )
        ),
        strict=True,
    )  # fmt: skip
    for row, (centre, top, drop, width, bottom, pleats, light, *tints) in enumerate(numbers):
        for i in range(side):
            for j in range(side):
                x, y = (j + 0.5) / unit, (i + 0.5) / unit
                across = (x - centre) ** 2 / width**2
                along = max(0.0, y - 92) ** 2 / (bottom - 92) ** 2
                above = (y - top - drop * across) * unit + 0.5
                within = (1 - across - along) * width / 2 * unit + 0.5
                cover = min(max(above, 0), 1) * min(max(within, 0), 1) if i >= side / 2 else 0
                fold = abs((y - top) / pleats % 1 - 0.5)
                shade = (1 - 0.35 * across) * (1 - 0.2 * fold)
                for channel, tint in enumerate(tints):
                    cloth = min(max(light + tint, 0), 255) * shade
                    old = float(pixels[row, i, j, channel])
                    expected = min(max(old + cover * (cloth - old), 0), 255)
                    assert abs(float(result[row, i, j, channel]) - expected) < 0.01


def test_masks_have_many_colours() -> None:
    result = masked(torch.zeros(300, 112, 112, 3), decisions(300))[:, 92, 56]
    light = result.mean(dim=1)
    assert light.min() < 60
    assert light.max() > 190
    assert (result[:, 0] - result[:, 2]).abs().max() > 50


@pytest.mark.parametrize("side", [16, 37])
@pytest.mark.parametrize("size", [0.0, 0.05, 0.4, 1.0])
def test_cutout_covers_a_square_around_its_centre(side: int, size: float) -> None:
    pixels = noise(5, side)
    result = cut_out(pixels.clone(), decisions(5), size=size, level=9.5)
    decide = decisions(5)
    centres = zip(*(decide.between(f"cutout {axis}", 0, side) for axis in "xy"), strict=True)
    for row, (x, y) in enumerate(centres):
        for i in range(side):
            for j in range(side):
                near = max(abs(i + 0.5 - float(y)), abs(j + 0.5 - float(x))) < size * side / 2
                expected = torch.full((3,), 9.5) if near else pixels[row, i, j]
                assert torch.equal(result[row, i, j], expected)


def test_the_number_of_operations_of_cutout_does_not_depend_on_the_batch() -> None:
    change = partial(cut_out, size=0.4, level=1.0)
    assert len({count_operations(change, count) for count in (1, 3, 40)}) == 1
