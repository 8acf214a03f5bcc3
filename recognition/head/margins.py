"""Margins: what is done to the cosine between a sample and its own class centre.

A margin is a pure function on the N cosines of a batch's samples with their own centres. It sees
no other class and no logits matrix, so a new one is one function here, one entry in `MARGINS` and
one test. Derivatives come from autograd on those N numbers.

Shapes: N samples of the global batch.
"""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from recognition.head.choices import choose

Margin = Callable[[torch.Tensor], torch.Tensor]
"""Takes the cosines of N samples with their own centres (float, [N]), returns them with margin."""

# A float32 cosine near 1 is off by some 1e-7, hence its sine by up to sqrt(2e-7) = 4e-4: below
# 1e-3 (0.06 degrees) the angle is rounding noise. Holding sin^2 at 1e-6 keeps the derivative of
# the angle, 1 / sin, finite without touching any angle that float32 can tell from zero.
_SMALLEST_SQUARED_SINE = 1e-6


@dataclass(frozen=True)
class CosineMargin:
    """The additive cosine margin of CosFace: `cos θ − m`. See `cosface`."""

    m: float

    def __call__(self, cosine_N: torch.Tensor) -> torch.Tensor:
        """Return `cosine_N − m`, float [N]."""
        return cosine_N - self.m


@dataclass(frozen=True)
class AngularMargin:
    """The combined margin `cos(m1·θ + m2) − m3`, continued beyond π. See `combined`."""

    m1: float
    m2: float
    m3: float
    detached: bool

    def __call__(self, cosine_N: torch.Tensor) -> torch.Tensor:
        """Return the cosines with margin, float [N], in the dtype of `cosine_N`."""
        if self.detached:
            return cosine_N + (self._value(cosine_N) - cosine_N).detach()
        return self._value(cosine_N)

    def _value(self, cosine_N: torch.Tensor) -> torch.Tensor:
        sine_N = (1.0 - cosine_N.square()).clamp_min(_SMALLEST_SQUARED_SINE).sqrt()
        # atan2 keeps full precision where arccos loses it, and takes cosines beyond ±1 by a
        # rounding error without a NaN.
        angle_N = self.m1 * torch.atan2(sine_N, cosine_N) + self.m2
        turns_N = torch.floor(angle_N.detach() / math.pi)
        sign_N = 1.0 - 2.0 * torch.remainder(turns_N, 2.0)
        return sign_N * torch.cos(angle_N) - 2.0 * turns_N - self.m3


def softmax() -> Margin:
    """Return the plain softmax's margin, which is none: `cos θ`."""
    return CosineMargin(0.0)


def cosface(m: float = 0.4) -> Margin:
    """Return `cos θ − m` (Wang et al., "CosFace", CVPR 2018, arXiv 1801.09414).

    Raises `ValueError` unless `m` is finite and at least 0.
    """
    _check_at_least("m", m, 0.0)
    return CosineMargin(m)


def arcface(m: float = 0.5, detached: bool = False) -> Margin:
    """Return `cos(θ + m)` (Deng et al., "ArcFace", CVPR 2019, arXiv 1801.07698).

    Args:
        m: margin in radians, finite and at least 0.
        detached: take the value with the margin and the derivative without it, as the published
            code does by editing logits outside autograd; for reproducing its figures. The default
            is the derivative of the formula, larger by `sin(θ + m) / sin θ`.

    Raises `ValueError` when `m` is out of range.
    """
    _check_at_least("m", m, 0.0)
    return AngularMargin(1.0, m, 0.0, detached)


def combined(m1: float = 1.0, m2: float = 0.0, m3: float = 0.0, detached: bool = False) -> Margin:
    """Return `cos(m1·θ + m2) − m3` (the combined margin of ArcFace, arXiv 1801.07698, section 2.2).

    The cosine would rise again once `m1·θ + m2` exceeds π, and reward a sample for moving away
    from its centre. There the function goes on as in SphereFace (Liu et al., CVPR 2017, arXiv
    1704.08063, equation 7): with `φ = m1·θ + m2` and `k = floor(φ / π)`,

        ψ(θ) = (−1)^k · cos φ − 2k − m3,

    which equals the formula for `φ <= π`, is continuous, strictly decreasing in θ, and has the
    derivative `−m1·|sin φ|` wherever φ is no multiple of π (and 0 there).

    Args:
        m1: factor of the angle, finite and above 0.
        m2: added to the angle, in radians, finite and at least 0.
        m3: taken off the cosine, finite and at least 0.
        detached: as in `arcface`.

    Raises `ValueError` when one of them is out of range.
    """
    if not (math.isfinite(m1) and m1 > 0.0):
        raise ValueError(f"margin option m1: {m1} found, expected a finite number above 0")
    _check_at_least("m2", m2, 0.0)
    _check_at_least("m3", m3, 0.0)
    if m1 == 1.0 and m2 == 0.0:
        return CosineMargin(m3)  # no angle is needed, and none of its rounding
    return AngularMargin(m1, m2, m3, detached)


MARGINS: dict[str, Callable[..., Margin]] = {
    "softmax": softmax,
    "cosface": cosface,
    "arcface": arcface,
    "combined": combined,
}


def build_margin(name: str, **options: float | bool) -> Margin:
    """Return the margin `name` of `MARGINS` with its `options`, all by keyword.

    Raises `ValueError` for a name or an option that does not exist (it lists those that do), and
    for an option out of range.
    """
    build = choose(MARGINS, name, "margin")
    known = list(inspect.signature(build).parameters)
    for option in options:
        if option not in known:
            raise ValueError(
                f"margin {name!r} has no option {option!r}: expected a subset of {known}"
            )
    return build(**options)


def _check_at_least(option: str, value: float, least: float) -> None:
    if not (math.isfinite(value) and value >= least):
        raise ValueError(
            f"margin option {option}: {value} found, expected a finite number of at least {least}"
        )
