import pytest
import torch
from torch import Tensor

from data.augmentations.decisions import Decisions
from data.augmentations.rows import change_rows
from tests.data.augmentations.helpers import decisions, noise


@pytest.mark.parametrize("side", [4, 300])  # all in one block, two to a block
@pytest.mark.parametrize("rows", [[], [3], [0, 2, 3, 5, 6], list(range(7))])
def test_chosen_rows_change_and_others_stay(side: int, rows: list[int]) -> None:
    pixels = noise(7, side)
    before = pixels.clone()
    seen: list[int] = []

    def double(images: Tensor, decide: Decisions) -> Tensor:
        assert images.is_contiguous()
        assert len(decide("blur")) == len(images)
        seen.extend((decide("blur") * 2**24).int().tolist())
        return images.mul_(2)

    chosen = torch.zeros(7, dtype=torch.bool)
    chosen[rows] = True
    decide = decisions(7)
    change_rows(pixels, chosen, decide, double)
    before[rows] *= 2
    assert torch.equal(pixels, before)
    assert seen == (decide("blur")[rows] * 2**24).int().tolist(), "each with its own decisions"
