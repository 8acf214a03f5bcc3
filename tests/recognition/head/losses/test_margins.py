import math

import pytest
import torch
from torch import Tensor

from recognition.head import (
    LOSSES,
    LossInputs,
    MarginSoftmax,
    arcface,
    build_loss,
    combined,
    cosface,
)
from tests.recognition.head.reference import (
    ADAFACE,
    LOSS_CASES,
    MAGFACE,
    MARGIN_CASES,
    LossCase,
)

ANGLES = torch.linspace(0.002, math.pi - 0.002, 20_001, dtype=torch.float64)
NORMS = torch.linspace(0.5, 150.0, 20_001, dtype=torch.float64)


def _margin(loss: object, cosine: Tensor, norm: Tensor | None = None) -> Tensor:
    """Return the cosines with margin, for running statistics of realistic size."""
    assert isinstance(loss, MarginSoftmax)
    running = torch.tensor([70.0, 9.0], dtype=cosine.dtype)
    return loss.margin(
        LossInputs(cosine, torch.ones_like(cosine) if norm is None else norm, running)
    )


@pytest.mark.parametrize("case", [*MARGIN_CASES, ADAFACE, MAGFACE], ids=repr)
def test_value_and_derivatives_are_those_of_the_formula(case: LossCase) -> None:
    for shuffle in (0, 7_000, 13_000):  # every angle with several norms
        cosine, norm = torch.cos(ANGLES).requires_grad_(), NORMS.roll(shuffle).requires_grad_()
        expected = case.margin(cosine, norm, (70.0, 9.0))
        found = _margin(build_loss(case.name, **case.options), cosine, norm)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
        derivatives = [
            torch.autograd.grad(value.sum(), (cosine, norm), materialize_grads=True)
            for value in (found, expected)
        ]
        # The derivative of acos in the reference loses digits near the ends: 1 / sin(0.002) = 500.
        torch.testing.assert_close(derivatives[0][0], derivatives[1][0], rtol=1e-7, atol=1e-9)
        torch.testing.assert_close(derivatives[0][1], derivatives[1][1], rtol=1e-7, atol=1e-9)


def test_magface_alone_has_a_derivative_by_the_norm() -> None:
    assert [name for name, build in LOSSES.items() if build().has_norm_gradient] == ["magface"]


@pytest.mark.parametrize(
    "options",
    [{"m2": 0.5}, {"m2": 1.5}, {"m2": 3.5}, {"m1": 4.0}, {"m1": 2.5, "m2": 1.0, "m3": 0.1}],
    ids=repr,
)
def test_falls_strictly_and_without_jumps_over_all_angles(options: dict[str, float]) -> None:
    value = _margin(build_loss("combined", **options), torch.cos(ANGLES))
    steps = value.diff()

    assert (steps < 0).all()
    assert steps.abs().max() < 1.01 * options.get("m1", 1.0) * (
        ANGLES[1] - ANGLES[0]
    )  # |psi'| <= m1: no jump


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "d_softmax"])
def test_is_finite_at_and_just_beyond_the_ends(name: str) -> None:
    ends = torch.tensor([1.0, -1.0, 1.0 + 3e-7, -1.0 - 3e-7, 1.0 - 6e-8, 0.0], requires_grad=True)
    value = _margin(build_loss(name), ends)
    (derivative,) = torch.autograd.grad(value.sum(), ends)

    assert value.isfinite().all()
    assert derivative.isfinite().all()
    # 1 / sin is held at 1000; rounding in float32 could make it 1 / sqrt(1e-7) = 3000 and more.
    assert derivative.abs().max() <= 1001


def test_exact_arcface_has_the_derivative_that_the_detached_form_leaves_out() -> None:
    cosine = torch.tensor([0.3], requires_grad=True)
    (exact,) = torch.autograd.grad(_margin(arcface(0.5), cosine), cosine)
    (detached,) = torch.autograd.grad(_margin(arcface(0.5, detached=True), cosine), cosine)

    angle = math.acos(0.3)
    assert exact.item() == pytest.approx(math.sin(angle + 0.5) / math.sin(angle), rel=1e-5)
    assert detached.item() == 1.0
    assert _margin(arcface(0.5, detached=True), cosine).item() == pytest.approx(
        math.cos(angle + 0.5)
    )


def test_combined_without_an_angular_part_is_cosface_to_the_bit() -> None:
    assert combined(m3=0.35) == cosface(0.35)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("arkface", {}, "loss: 'arkface'.*'arcface'.*'softmax'.*'arcface'"),
        ("arcface", {"m2": 0.5}, r"'arcface'.*'m2'.*\['m', 'detached'\]"),
        ("cosface", {"m": -0.1}, r"option m: -0.1.*0"),
        ("combined", {"m1": 0.0}, r"option m1: 0.0.*0"),
        ("combined", {"m3": math.nan}, r"option m3: nan"),
        ("adaface", {"h": 0.0}, r"option h: 0.0.*0"),
        ("adaface", {"alpha": 1.5}, r"option alpha: 1.5.*0 < alpha <= 1"),
        ("magface", {"upper_norm": 10.0}, r"option upper_norm: 10.0.*10.0"),
        ("magface", {"upper_margin": 0.4}, r"option upper_margin: 0.4.*0.45"),
        ("subcenter_arcface", {"k": 0}, r"option k: 0.*1"),
        ("subcenter_arcface", {"k": 1.5}, r"option k: 1\.5.*int"),
        ("d_softmax", {"d": 1.5}, r"option d: 1.5.*\(-1, 1\]"),
        ("d_softmax", {"batch_rate": 0.0}, r"option batch_rate: 0.0"),
    ],
)
def test_unknown_and_unfit_settings_are_refused(
    name: str, options: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build_loss(name, **options)


def test_every_loss_has_a_dense_formula() -> None:
    assert {case.name for case in LOSS_CASES} == set(LOSSES)
