import math

import torch

from data.augmentations.decisions import DECISIONS, Decisions
from tests.data.augmentations.helpers import decisions

# Of seed 1, epoch 2, sample 3, in units of 2^-24. Pictures of a given seed are the same in every
# release: values may be added here, and none may change.
PUBLISHED = {
    "flip": 12561562, "crop": 8324242, "zoom": 5514706, "shift x": 16453333, "shift y": 9773457,
    "colour": 10377705, "brightness": 5575140, "contrast": 10364921, "saturation": 3663386,
    "grey": 5055605, "cutout": 6611284, "cutout x": 4025308, "cutout y": 1271341, "hue": 8836920,
    "blur": 15175498, "blur sigma": 11738434, "low_resolution": 4913668,
    "low resolution side": 12217481, "jpeg": 11459427, "jpeg quality": 6634057, "mask": 4023593,
    "mask centre": 2020751, "mask top": 3331404, "mask drop": 8276862, "mask width": 1781421,
    "mask bottom": 3967922, "mask pleats": 952305, "mask light": 14693995, "mask red": 13876426,
    "mask green": 9946005, "mask blue": 4642779,
}  # fmt: skip


def test_decisions_are_the_published_ones() -> None:
    decide = Decisions(1, torch.tensor([2]), torch.tensor([3]), torch.device("cpu"))
    assert {name: int(decide(name) * 2**24) for name in DECISIONS} == PUBLISHED


def test_decisions_are_uniform_and_independent() -> None:
    count = 20_000
    decide = decisions(count)
    values = torch.stack([decide(name) for name in PUBLISHED]).double()
    assert values.min() >= 0
    assert values.max() < 1
    bins = torch.stack([row.histc(20, 0, 1) for row in values])
    chi_square = ((bins - count / 20) ** 2 / (count / 20)).sum(dim=1)
    assert chi_square.max() < 19 + 5 * math.sqrt(2 * 19)
    correlations = torch.corrcoef(values)
    assert correlations.fill_diagonal_(0).abs().max() < 5 / math.sqrt(count)


def test_whole_numbers_are_uniform_and_include_both_ends() -> None:
    count = 6000
    values = decisions(count).whole("jpeg quality", 98, 100)
    assert values.dtype == torch.int64
    fractions = values.bincount(minlength=101)[98:] / count
    assert fractions.sum() == 1
    assert (fractions - 1 / 3).abs().max() < 4 * math.sqrt(2 / 9 / count)
    assert (decisions(100).whole("jpeg quality", 7, 7) == 7).all()


def test_a_part_of_a_batch_has_the_decisions_of_its_samples() -> None:
    decide = decisions(10)
    rows = torch.tensor([7, 2, 2])
    assert torch.equal(decide.of(rows)("flip"), decide("flip")[rows])
    assert len(decide("flip")) == 10
