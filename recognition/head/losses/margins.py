"""Margins: what is done to the cosine between a sample and its target centre.

Each is a class with its options, their checks and the target cosines with margin, and an entry in
`build.LOSSES`. An option out of its range raises `ValueError`. Derivatives come from autograd on N
numbers.

Shapes: N samples of the global batch.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from recognition.head.losses.base import (
    Curriculum,
    LossInputs,
    MarginSoftmax,
    check_above,
    check_fraction,
    check_option,
)

# A float32 cosine near 1 is off by some 1e-7, so its sine by up to sqrt(2e-7) = 4e-4: below
# 1e-3 (0.06 degrees) the angle is rounding noise. Holding sin^2 at 1e-6 keeps the derivative of
# the angle, 1 / sin, finite without touching any angle that float32 can tell from zero.
_SMALLEST_SQUARED_SINE = 1e-6


def angle(cosine_N: Tensor) -> Tensor:
    """Return `arccos(cosine_N)`, with a bounded derivative at the ends: float [N], radians."""
    sine_N = (1.0 - cosine_N.square()).clamp_min(_SMALLEST_SQUARED_SINE).sqrt()
    # atan2 keeps full precision where arccos loses it, and gives no NaN for cosines that rounding
    # put beyond ±1.
    return torch.atan2(sine_N, cosine_N)


def falling_cosine(angle_N: Tensor) -> Tensor:
    """Return `cos φ` up to π, continued beyond so that it goes on falling: float [N].

    The cosine would rise again once an angle with margin exceeds π, and reward a sample for
    moving away from its centre. Beyond π this continues as in SphereFace (Liu et al., CVPR 2017,
    arXiv 1704.08063, equation 7), `(−1)^k · cos φ − 2k` with `k = floor(φ / π)`: continuous,
    strictly decreasing, with the derivative `−|sin φ|`.
    """
    turns_N = torch.floor(angle_N.detach() / math.pi)
    sign_N = 1.0 - 2.0 * torch.remainder(turns_N, 2.0)
    return sign_N * torch.cos(angle_N) - 2.0 * turns_N


@dataclass(frozen=True)
class CosFace(MarginSoftmax):
    """`cos θ − m` (Wang et al., "CosFace", CVPR 2018, arXiv 1801.09414).

    Args:
        m: margin, finite and at least 0.
    """

    m: float = 0.4

    def __post_init__(self) -> None:
        check_option("m", self.m, 0.0)

    def margin(self, inputs: LossInputs) -> Tensor:
        """Return `cos θ − m`, float [N]."""
        return inputs.target_cosine - self.m


def softmax() -> MarginSoftmax:
    """Return the plain softmax: no margin."""
    return CosFace(0.0)


@dataclass(frozen=True)
class AngularMargin(MarginSoftmax):
    """`cos(m1·θ + m2) − m3`, continued beyond π by `falling_cosine`. See `combined`."""

    m1: float
    m2: float
    m3: float
    detached: bool = False
    centres_per_class: int = 1

    def __post_init__(self) -> None:
        check_above("m1", self.m1, 0.0)
        check_option("m2", self.m2, 0.0)
        check_option("m3", self.m3, 0.0)

    def margin(self, inputs: LossInputs) -> Tensor:
        """Return the cosines with margin, float [N]."""
        value_N = falling_cosine(self.m1 * angle(inputs.target_cosine) + self.m2) - self.m3
        if self.detached:
            return inputs.target_cosine + (value_N - inputs.target_cosine).detach()
        return value_N


def arcface(m: float = 0.5, detached: bool = False) -> MarginSoftmax:
    """Return `cos(θ + m)` (Deng et al., "ArcFace", CVPR 2019, arXiv 1801.07698).

    Args:
        m: margin in radians, finite and at least 0.
        detached: take the value with the margin and the derivative without it, as the published
            code does by editing logits outside autograd; to reproduce its results. The default
            is the derivative of the formula, larger by `sin(θ + m) / sin θ`.
    """
    check_option("m", m, 0.0)
    return AngularMargin(1.0, m, 0.0, detached)


def combined(
    m1: float = 1.0, m2: float = 0.0, m3: float = 0.0, detached: bool = False
) -> MarginSoftmax:
    """Return `cos(m1·θ + m2) − m3` (the combined margin of ArcFace, arXiv 1801.07698, section 2.2).

    Args:
        m1: factor of the angle, finite and above 0.
        m2: added to the angle, in radians, finite and at least 0.
        m3: subtracted from the cosine, finite and at least 0.
        detached: as in `arcface`.
    """
    if m1 == 1.0 and m2 == 0.0:
        check_option("m3", m3, 0.0)
        return CosFace(m3)  # no angle is needed, and none of its rounding
    return AngularMargin(m1, m2, m3, detached)


def subcenter_arcface(m: float = 0.5, k: int = 3) -> MarginSoftmax:
    """Return ArcFace over K centres per class (Deng et al., "Sub-center ArcFace", ECCV 2020).

    The cosine with a class is that with the nearest of its K centres, for target and negatives
    alike; only that centre gets a gradient. The table is K times as large.

    Args:
        m: margin in radians, finite and at least 0.
        k: centres per class, at least 1.
    """
    check_option("m", m, 0.0)
    check_option("k", k, 1)
    return AngularMargin(1.0, m, 0.0, centres_per_class=k)


@dataclass(frozen=True)
class AdaFace(MarginSoftmax):
    """A margin that follows image quality (Kim et al., CVPR 2022, arXiv 2204.00964).

    With z the embedding's norm, standardised by running mean and deviation, times h and clipped to
    [−1, 1]: `cos(θ − m·z) − (m + m·z)`. Low norms get an angular margin, high ones a cosine margin.

    Args:
        m: margin, finite and at least 0.
        h: concentration, finite and above 0.
        alpha: weight of a batch in the running mean and deviation, in (0, 1].
    """

    m: float = 0.4
    h: float = 0.333
    alpha: float = 0.01
    initial = (20.0, 100.0)  # mean and deviation of norms, as published

    def __post_init__(self) -> None:
        check_option("m", self.m, 0.0)
        check_above("h", self.h, 0.0)
        check_fraction("alpha", self.alpha)

    def observe(self, inputs: LossInputs) -> Tensor:
        """Return mean and deviation of the norms, moved by `alpha` towards the batch's."""
        norm_N = inputs.norm.clamp(1e-3, 100.0)
        if len(norm_N) < 2:  # one sample has no deviation
            return inputs.running
        return inputs.running.lerp(torch.stack([norm_N.mean(), norm_N.std()]), self.alpha)

    def margin(self, inputs: LossInputs) -> Tensor:
        """Return `cos(θ − m·z) − (m + m·z)`, float [N]; z carries no gradient."""
        mean, deviation = inputs.running.unbind()
        norm_N = inputs.norm.detach().clamp(1e-3, 100.0)
        z_N = ((norm_N - mean) / (deviation + 1e-3) * self.h).clamp(-1.0, 1.0)
        # Below angle 0 the cosine would fall again: a sample at its centre has nothing to gain.
        shifted_N = (angle(inputs.target_cosine) - self.m * z_N).clamp_min(0.0)
        return falling_cosine(shifted_N) - self.m - self.m * z_N


@dataclass(frozen=True)
class MagFace(MarginSoftmax):
    """A margin that grows with the norm (Meng et al., CVPR 2021, arXiv 2103.06627).

    `cos(θ + m(a))` with a margin that rises linearly with the norm a, clamped to
    [`lower_norm`, `upper_norm`], from `lower_margin` to `upper_margin` (radians), plus
    `regulariser · (1/a + a/upper_norm²)`, which rewards large norms.

    Args:
        lower_norm: norm from which the margin rises, finite and above 0.
        upper_norm: norm up to which it rises, finite and above `lower_norm`.
        lower_margin: margin of the lower norm in radians, finite and at least 0.
        upper_margin: margin of the upper norm in radians, finite and at least `lower_margin`.
        regulariser: factor of the reward for large norms, finite and at least 0.
    """

    lower_norm: float = 10.0
    upper_norm: float = 110.0
    lower_margin: float = 0.45
    upper_margin: float = 0.8
    regulariser: float = 35.0
    has_norm_gradient = True

    def __post_init__(self) -> None:
        check_above("lower_norm", self.lower_norm, 0.0)
        check_above("upper_norm", self.upper_norm, self.lower_norm)
        check_option("lower_margin", self.lower_margin, 0.0)
        check_option("upper_margin", self.upper_margin, self.lower_margin)
        check_option("regulariser", self.regulariser, 0.0)

    def margin(self, inputs: LossInputs) -> Tensor:
        """Return `cos(θ + m(a))`, float [N]; the norm a gets its gradient too."""
        slope = (self.upper_margin - self.lower_margin) / (self.upper_norm - self.lower_norm)
        margin_N = self.lower_margin + slope * (self._norm(inputs) - self.lower_norm)
        return falling_cosine(angle(inputs.target_cosine) + margin_N)

    def penalty(self, inputs: LossInputs) -> Tensor:
        """Return `regulariser·(1/a + a/u²)`, float [N]: smallest at the upper norm u."""
        norm_N = self._norm(inputs)
        return self.regulariser * (1.0 / norm_N + norm_N / self.upper_norm**2)

    def _norm(self, inputs: LossInputs) -> Tensor:
        return inputs.norm.clamp(self.lower_norm, self.upper_norm)


@dataclass(frozen=True)
class CurricularFace(MarginSoftmax):
    """Hard negatives that count for more with time (Huang et al., CVPR 2020, arXiv 2004.00288).

    `cos(θ + m)` for the target class; a negative whose cosine c exceeds it counts as `c·(t + c)`, t
    being the running mean of the target cosines, which rises as training succeeds.

    Args:
        m: margin in radians, finite and at least 0.
        alpha: weight of a batch in t, in (0, 1].
    """

    m: float = 0.5
    alpha: float = 0.01
    initial = (0.0,)  # t
    has_curriculum = True

    def __post_init__(self) -> None:
        check_option("m", self.m, 0.0)
        check_fraction("alpha", self.alpha)

    def observe(self, inputs: LossInputs) -> Tensor:
        """Return t, moved by `alpha` towards the batch's mean cosine."""
        return inputs.running.lerp(inputs.target_cosine.mean().reshape(1), self.alpha)

    def margin(self, inputs: LossInputs) -> Tensor:
        """Return `cos(θ + m)`, float [N]."""
        return falling_cosine(angle(inputs.target_cosine) + self.m)

    def curriculum(self, inputs: LossInputs) -> Curriculum:
        """Return the bound `cos(θ + m)`: a negative nearer than the target with margin is hard."""
        return Curriculum(self.margin(inputs), inputs.running.expand_as(inputs.target_cosine))


# Users call them by these names, like those that are functions.
cosface, adaface, magface, curricularface = CosFace, AdaFace, MagFace, CurricularFace
