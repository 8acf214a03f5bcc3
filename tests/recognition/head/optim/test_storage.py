"""Rows that are kept in two bytes or one per number."""

import math

import pytest
import torch
from torch import Tensor

from recognition.head.optim.rounding import INT8_MAX, RowNoise
from recognition.head.optim.storage import STORAGE, decode, encode, zero_rows

forms = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8], ids=str)


def _stored(value: Tensor, dtype: torch.dtype, noise: RowNoise) -> list[Tensor]:
    tensors = list(zero_rows("weight", len(value), value.shape[1], dtype, "cpu").values())
    scale = tensors[1] if len(tensors) > 1 else None
    encode(value.clone(), noise, tensors[0], scale, torch.empty_like(value))
    return tensors


def _rounded(value: Tensor, dtype: torch.dtype, *, step: int = 0) -> Tensor:
    noise = RowNoise(3, step, torch.arange(len(value)), tensor="weight")
    return decode(*_stored(value, dtype, noise))


def _step_of_grid(value: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the distance of a number's two neighbours in the form."""
    if dtype == torch.int8:
        return (value.abs().amax(1, keepdim=True) / INT8_MAX).expand_as(value)
    exponent = torch.frexp(value).exponent - 8
    return torch.ldexp(torch.ones_like(value), exponent)


def _values() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    size = torch.logspace(-30, 30, 40).unsqueeze(1)
    return size * torch.randn(40, 96, generator=generator)


@forms
def test_one_write_is_off_by_less_than_one_step_of_the_grid(dtype: torch.dtype) -> None:
    value = _values()
    for step in range(8):
        error = (_rounded(value, dtype, step=step) - value).abs()
        # Both numbers of a quotient are rounded to float32, at up to 127 steps.
        assert (error <= _step_of_grid(value, dtype) * (1 + 127 * 2**-22)).all()


@forms
def test_the_mean_of_many_writes_is_the_number(dtype: torch.dtype) -> None:
    value, draws = _values(), 400
    mean = torch.zeros_like(value, dtype=torch.float64)
    for step in range(draws):
        mean += _rounded(value, dtype, step=step).double() / draws
    unit = (mean - value.double()) / _step_of_grid(value, dtype).double()

    # One draw has a standard deviation of at most half a step: 3,840 means of 400 are within 5
    # of theirs, and the mean of them all, whose errors are uncorrelated, within 4.
    assert unit.abs().max() < 5 * 0.5 / math.sqrt(draws)
    assert unit.mean().abs() < 4 * 0.5 / math.sqrt(draws * value.numel())


def test_int8_keeps_the_largest_number_of_a_row_and_signs() -> None:
    value = _values()
    noise = RowNoise(0, 0, len(value))
    number, scale = _stored(value, torch.int8, noise)
    largest = value.abs().argmax(1, keepdim=True)

    assert (number.gather(1, largest).abs() == 127).all()
    assert (number == -128).sum() == 0
    torch.testing.assert_close(scale * 127, value.abs().amax(1, keepdim=True), rtol=1e-6, atol=0)


@pytest.mark.parametrize("value", [0.0, 1e-39, -1e-45])
def test_a_row_of_zeros_and_one_below_normal_numbers_are_zeros(value: float) -> None:
    number, scale = _stored(torch.full((2, 8), value), torch.int8, RowNoise(0, 0, 2))

    assert not number.any()
    assert scale.tolist() == [[0.0], [0.0]]
    assert torch.equal(decode(number, scale), torch.zeros(2, 8))


@forms
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_row_with_a_number_that_is_not_finite_stays_so(dtype: torch.dtype, bad: float) -> None:
    value = torch.ones(3, 8)
    value[1, 5] = bad
    found = _rounded(value, dtype)

    assert found.isfinite().all(1).tolist() == [True, False, True]
    if dtype == torch.int8:  # the scale shows it to whoever looks at the state
        assert found[1].isnan().all()


@forms
def test_weight_and_momentum_get_bits_of_their_own(dtype: torch.dtype) -> None:
    value = _values()
    noise = RowNoise(0, 0, len(value))
    names = ("weight", "momentum", "weight", "other")
    number = [_stored(value, dtype, noise.of(name))[0] for name in names]

    assert torch.equal(number[0], number[2])
    for other in (number[1], number[3]):
        assert 0.1 < (number[0] != other).float().mean() < 0.9


@forms
def test_a_row_depends_on_itself_and_its_class_alone(dtype: torch.dtype) -> None:
    value = _values()
    whole = _stored(value, dtype, RowNoise(1, 2, len(value), 1000))
    for part in (torch.tensor([7]), torch.tensor([0, 39, 3])):
        found = _stored(value[part], dtype, RowNoise(1, 2, part, 1000))
        assert all(torch.equal(a, b[part]) for a, b in zip(found, whole, strict=True))


def test_fp32_is_itself() -> None:
    value = _values()
    assert decode(value) is value
    assert list(zero_rows("momentum", 2, 3, STORAGE["fp32"], "cpu")) == ["momentum"]
