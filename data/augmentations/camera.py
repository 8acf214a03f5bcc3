"""The losses of a lens and a sensor.

Shape legend: n samples, S image side, R radius of a filter.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from data.augmentations.decisions import Decisions

_SIGMAS = 3  # radius of the filter; 0.3% of the bell lies beyond


def blurred(pixels: Tensor, decide: Decisions, *, low: float, high: float) -> Tensor:
    """Return `pixels`, float32 [n, S, S, 3] of 0 to 255, after a Gaussian filter.

    Each sample has its own sigma, `low` to `high` pixels; edges are repeated. The filter has radius
    R = ceil(3 * high) for all samples, so the cost is that of `high`. torchvision's
    `gaussian_blur` reflects edges and takes one sigma per call, in 1.7 times the time.
    """
    count, side, _, _ = pixels.shape
    radius = math.ceil(_SIGMAS * high)
    # The last bit of a tensor's exp() may depend on the position in it; that of a number does not.
    sigmas = decide.between("blur sigma", low, high).tolist()
    weights = decide.send(torch.tensor([_bell(sigma, radius) for sigma in sigmas]))[..., None, None]
    padded = torch.arange(-radius, side + radius, device=pixels.device).clamp_(0, side - 1)
    rows = pixels.view(count, side, side * 3)
    rows = _filtered(rows.index_select(1, padded), weights, axis=1, step=1)
    columns = rows.view(count, side, side, 3).index_select(2, padded).flatten(2)
    result = _filtered(columns, weights, axis=2, step=3)
    return result.clamp_(0, 255).view(count, side, side, 3)


def _bell(sigma: float, radius: int) -> list[float]:
    """Return a Gaussian's weights at distances 0 … R; the whole filter sums to 1."""
    values = [math.exp(-((distance / sigma) ** 2) / 2) for distance in range(radius + 1)]
    total = 2 * sum(values) - values[0]
    return [value / total for value in values]


def _filtered(values: Tensor, weights: Tensor, *, axis: int, step: int) -> Tensor:
    """Return `values` filtered along `axis` with `weights`, [n, R + 1, 1, 1], of 0 … R steps.

    `values` is longer than the result by R steps on either side.
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
    """Return `pixels`, float32 [n, S, S, 3] of 0 to 255, as if taken from far away.

    Each image is made smaller, to a fraction `low` to `high` of its side, and then as large as
    before. Both are bilinear; the first averages over all pixels (`antialias`). torchvision's
    `resize` gives the same bits and is 6% slower.
    """
    side = pixels.shape[1]
    sides = (decide.between("low resolution side", low, high) * side).round_().clamp_(1, side)
    # One image at a time: few have the same size.
    for image, small in zip(pixels.permute(0, 3, 1, 2), sides.int().tolist(), strict=True):
        if small < side:
            reduced = F.interpolate(image[None], (small, small), mode="bilinear", antialias=True)
            image.copy_(F.interpolate(reduced, (side, side), mode="bilinear")[0])
    return pixels.clamp_(0, 255)
