import math

import pytest
import torch

from recognition.head.margins import MARGINS, arcface, build_margin, combined, cosface
from tests.recognition.head.reference import MARGIN_CASES, MarginCase

ANGLES = torch.linspace(0.002, math.pi - 0.002, 20_001, dtype=torch.float64)


@pytest.mark.parametrize("case", MARGIN_CASES, ids=repr)
def test_value_and_derivative_are_those_of_the_formula(case: MarginCase) -> None:
    expected = torch.cos(ANGLES).requires_grad_()
    found = torch.cos(ANGLES).requires_grad_()
    expected_value, found_value = (
        case.dense(expected),
        build_margin(case.name, **case.options)(found),
    )
    (expected_slope,) = torch.autograd.grad(expected_value.sum(), expected)
    (found_slope,) = torch.autograd.grad(found_value.sum(), found)

    torch.testing.assert_close(found_value, expected_value, rtol=0, atol=1e-9)
    # acos' derivative in the reference loses digits near the ends: 1 / sin(0.002) = 500.
    torch.testing.assert_close(found_slope, expected_slope, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(
    "options",
    [{"m2": 0.5}, {"m2": 1.5}, {"m2": 3.5}, {"m1": 4.0}, {"m1": 2.5, "m2": 1.0, "m3": 0.1}],
    ids=repr,
)
def test_falls_strictly_and_without_jumps_over_all_angles(options: dict[str, float]) -> None:
    value = build_margin("combined", **options)(torch.cos(ANGLES))
    steps = value.diff()
    slope = options.get("m1", 1.0)

    assert (steps < 0).all()
    assert steps.abs().max() < 1.01 * slope * (ANGLES[1] - ANGLES[0])  # |psi'| <= m1: no jump


@pytest.mark.parametrize("name", MARGINS)
def test_is_finite_at_and_just_beyond_the_ends(name: str) -> None:
    ends = torch.tensor([1.0, -1.0, 1.0 + 3e-7, -1.0 - 3e-7, 1.0 - 6e-8, 0.0], requires_grad=True)
    value = build_margin(name)(ends)
    (slope,) = torch.autograd.grad(value.sum(), ends)

    assert value.isfinite().all()
    assert slope.isfinite().all()
    # 1 / sin, held at 1000; float32 could ask for 1 / sqrt(1e-7) = 3000 and more.
    assert slope.abs().max() <= 1001


def test_exact_arcface_has_the_derivative_that_the_detached_form_leaves_out() -> None:
    cosine = torch.tensor([0.3], requires_grad=True)
    (exact,) = torch.autograd.grad(arcface(0.5)(cosine), cosine)
    (detached,) = torch.autograd.grad(arcface(0.5, detached=True)(cosine), cosine)

    angle = math.acos(0.3)
    assert exact.item() == pytest.approx(math.sin(angle + 0.5) / math.sin(angle), rel=1e-5)
    assert detached.item() == 1.0
    assert arcface(0.5, detached=True)(cosine).item() == pytest.approx(math.cos(angle + 0.5))


def test_combined_without_an_angular_part_is_cosface_to_the_bit() -> None:
    assert combined(m3=0.35) == cosface(0.35)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("arkface", {}, r"margin: 'arkface' is not known.*'arcface'.*'softmax'.*mean 'arcface'"),
        ("arcface", {"m2": 0.5}, r"'arcface' has no option 'm2'.*\['m', 'detached'\]"),
        ("cosface", {"m": -0.1}, r"option m: -0.1 found.*at least 0"),
        ("combined", {"m1": 0.0}, r"option m1: 0.0 found.*above 0"),
        ("combined", {"m3": math.nan}, r"option m3: nan found"),
    ],
)
def test_bad_requests_are_refused_with_the_mend(
    name: str, options: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build_margin(name, **options)
