"""What a lens and a sensor lose.

Shape legend: n samples, S image side, R radius of a filter.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from data.augmentations.decisions import Decisions

_SIGMAS = 3  # where the bell is cut: 0.3% of it lies beyond


def blurred(pixels: Tensor, decide: Decisions, *, low: float, high: float) -> Tensor:
    """Return `pixels`, float32 [n, S, S, 3] of 0 to 255, after a Gaussian filter.

    Its sigma is `low` to `high` pixels, one a sample; edges are repeated. The filter ends at
    R = ceil(3 * high) for all samples, whose price is therefore that of `high`.
    """
    count, side, _, _ = pixels.shape
    radius = math.ceil(_SIGMAS * high)
    # exp() of a tensor may differ in its last bit with the place in it; that of a number does not.
    sigmas = decide.between("blur sigma", low, high).tolist()
    weights = decide.send(torch.tensor([_bell(sigma, radius) for sigma in sigmas]))[..., None, None]
    places = torch.arange(-radius, side + radius, device=pixels.device).clamp_(0, side - 1)
    rows = pixels.view(count, side, side * 3)
    rows = _filtered(rows.index_select(1, places), weights, axis=1, step=1)
    columns = rows.view(count, side, side, 3).index_select(2, places).flatten(2)
    result = _filtered(columns, weights, axis=2, step=3)
    return result.clamp_(0, 255).view(count, side, side, 3)


def _bell(sigma: float, radius: int) -> list[float]:
    """Return a Gaussian's weights at 0 … R; both sides together sum to 1."""
    values = [math.exp(-((place / sigma) ** 2) / 2) for place in range(radius + 1)]
    total = 2 * sum(values) - values[0]
    return [value / total for value in values]


def _filtered(values: Tensor, weights: Tensor, *, axis: int, step: int) -> Tensor:
    """Return the sums of `values` times `weights`, [n, R + 1, 1, 1], within R steps along `axis`.

    `values` is longer by R steps on either side than the result.
    """
    reach = (weights.shape[1] - 1) * step
    length = values.shape[axis] - 2 * reach
    result = values.narrow(axis, reach, length) * weights[:, 0]
    pair = torch.empty_like(result)
    for number in range(1, weights.shape[1]):
        away = number * step
        before = values.narrow(axis, reach - away, length)
        torch.add(before, values.narrow(axis, reach + away, length), out=pair)
        result += pair.mul_(weights[:, number])
    return result


def low_resolution(pixels: Tensor, decide: Decisions, *, low: float, high: float) -> Tensor:
    """Return `pixels`, float32 [n, S, S, 3] of 0 to 255, as a camera far away would have them.

    Each is made smaller, to `low` to `high` of its side, and as large as before again: both
    bilinear, the former averaging over all pixels (`antialias`).
    """
    side = pixels.shape[1]
    sides = (decide.between("low resolution side", low, high) * side).round_().clamp_(1, side)
    # One by one, as each has its own size: sizes in common are rare.
    for image, small in zip(pixels.permute(0, 3, 1, 2), sides.int().tolist(), strict=True):
        if small < side:
            reduced = F.interpolate(image[None], (small, small), mode="bilinear", antialias=True)
            image.copy_(F.interpolate(reduced, (side, side), mode="bilinear")[0])
    return pixels.clamp_(0, 255)
