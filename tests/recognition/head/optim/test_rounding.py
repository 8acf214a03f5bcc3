import math

import pytest
import torch
from torch import Tensor

from recognition.head.hashing import class_hash
from recognition.head.optim.rounding import RowNoise, round_stochastically


def _round(value: Tensor, seed: int = 0, step: int = 0, class_id: Tensor | None = None) -> Tensor:
    class_id = torch.arange(len(value)) if class_id is None else class_id
    out = torch.empty_like(value, dtype=torch.bfloat16)
    round_stochastically(
        value.clone(), RowNoise(seed, step, class_id), out, torch.empty_like(value)
    )
    return out


def _bits(rows: int, columns: int, step: int = 0, first: int = 0, seed: int = 0) -> Tensor:
    return _bits_of(RowNoise(seed, step, rows, first), columns)


def _bits_of(noise: RowNoise, columns: int) -> Tensor:
    rows = len(noise.class_id(torch.device("cpu")))
    return noise.bits(columns, out=torch.empty(rows, columns, dtype=torch.int32))


def _patterns() -> Tensor:
    """Return float32 of all signs, exponents and kinds of fractions: [512, 64]."""
    generator = torch.Generator().manual_seed(0)
    word = torch.randint(-(1 << 31), 1 << 31, (512, 64), generator=generator).to(torch.int32)
    return word.view(torch.float32)


def test_a_number_becomes_one_of_its_two_neighbours() -> None:
    value = _patterns()
    value = value.where(value.isfinite(), torch.ones(()))
    lower = value.view(torch.int32) >> 16  # towards zero, of sign and magnitude

    for step in range(4):
        carry = _round(value, step=step).view(torch.int16).int() - lower
        assert ((carry == 0) | (carry == 1)).all()
        assert 0.45 < carry.float().mean() < 0.55


def test_what_bfloat16_holds_stays_as_it_is() -> None:
    value = torch.arange(-(1 << 15), 1 << 15).to(torch.int16).view(torch.bfloat16).view(256, 256)

    rounded = _round(value.float())

    number = ~value.isnan()
    assert torch.equal(rounded[number].view(torch.int16), value[number].view(torch.int16))
    assert rounded[~number].isnan().all()


@pytest.mark.parametrize("word", [0x7FFFFFFF, -1, 0x7F800001, 0x7FC00000, -0x400000, 0x7FFF8000])
def test_a_nan_of_any_payload_stays_a_nan(word: int) -> None:
    value = torch.full((64, 64), word, dtype=torch.int32).view(torch.float32)

    assert value.isnan().all()
    assert _round(value).isnan().all()


@pytest.mark.slow
@pytest.mark.parametrize("value", [math.pi, -1e-3, 1.9999, 3e38, 1e-41])
def test_is_right_on_average(value: float) -> None:
    values = torch.full((512, 512), value)
    lower = (values.view(torch.int32) & -0x10000).view(torch.float32)
    above = (values.view(torch.int32) & 0xFFFF)[0, 0].item() / 65536  # in units of the last bit

    carry = torch.stack([_round(values, step=step).float() != lower for step in range(16)])

    draws = carry.numel()
    assert abs(carry.double().mean() - above) < 5 * math.sqrt(above * (1 - above) / draws)


def test_bits_are_exactly_a_row_word_times_a_column_word() -> None:
    class_id, columns = torch.tensor([0, 3, 123_456_789]), 5
    key = 0x4389E0E591B8F4B2  # a resumed run of an older version must get the same bits
    word = class_hash(torch.cat([class_id, -1 - torch.arange(columns)]), key, 7) - (1 << 31) | 1
    product = [[int(row) * int(column) for column in word[3:]] for row in word[:3]]
    expected = [[number % 2**32 >> 16 for number in row] for row in product]

    assert _bits_of(RowNoise(11, 7, class_id), columns).tolist() == expected


def test_bits_are_uniform() -> None:
    bits = torch.stack([_bits(256, 64, step=step) for step in range(64)])

    assert bits.min() >= 0
    assert bits.max() < 1 << 16
    for shift in (0, 8):  # both halves of the 16 bits
        counts = torch.bincount((bits >> shift & 0xFF).flatten(), minlength=256).double()
        expected = bits.numel() / 256
        # Chi-square with 255 degrees of freedom: mean 255, standard deviation 23.
        assert ((counts - expected).square() / expected).sum() < 255 + 5 * 23


@pytest.mark.parametrize("what", ["row", "column", "step"])
@pytest.mark.parametrize("lag", [1, 2, 16])
def test_bits_of_neighbours_are_uncorrelated(what: str, lag: int) -> None:
    unit = torch.stack([_bits(128, 128, step) for step in range(48)]).double() / 65536 - 0.5
    axis = {"step": 0, "row": 1, "column": 2}[what]
    length = unit.shape[axis]
    product = unit.narrow(axis, lag, length - lag) * unit.narrow(axis, 0, length - lag)

    # The product of two independent uniform numbers on (−1/2, 1/2) has standard deviation 1/12.
    assert abs(product.mean()) < 5 / 12 / math.sqrt(product.numel())
    # For every row, column and step too: the largest mean of up to 128 lines of thousands of
    # products each is within 5 standard deviations.
    for other in {0, 1, 2} - {axis}:
        lines = product.mean(dim=(axis, other))
        count = product.shape[axis] * product.shape[other]
        assert lines.abs().max() < 5 / 12 / math.sqrt(count)


@pytest.mark.parametrize("axis", [1, 2])
def test_errors_of_a_row_or_column_add_up_as_independent_ones(axis: int) -> None:
    unit = torch.stack([_bits(128, 128, step) for step in range(64)]).double() / 65536 - 0.5

    total = unit.sum(axis)

    # A sum of 128 has variance 128 / 12. The mean square of 8,192 such sums is known to 1.6 %.
    assert abs(total.square().mean() / (128 / 12) - 1) < 5 * 0.016


def test_bits_of_a_row_do_not_depend_on_the_other_rows() -> None:
    class_id = torch.tensor([4, 9, 70_000, 2**31 + 5])
    together = _bits_of(RowNoise(3, 8, class_id), 33)

    for row, one in enumerate(class_id):
        assert torch.equal(_bits_of(RowNoise(3, 8, one.unsqueeze(0)), 33)[0], together[row])


def test_bits_change_with_seed_step_class_and_column_and_with_nothing_else() -> None:
    first = _bits(64, 64, step=2, seed=1)
    torch.manual_seed(1)

    assert torch.equal(first, _bits(64, 64, step=2, seed=1))
    for other in (_bits(64, 64, 3, seed=1), _bits(64, 64, 2, seed=2), _bits(64, 64, 2, 64, 1)):
        # Independent 16-bit words agree in 1/16 of 4,096 positions on average.
        assert (first == other).sum() < 5
    assert len({tuple(row) for row in first.tolist()}) == 64
    assert len({tuple(column) for column in first.T.tolist()}) == 64


def test_no_rows_are_rounded_too() -> None:
    assert _round(torch.empty(0, 8)).shape == (0, 8)
