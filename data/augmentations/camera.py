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
    before. Both are bilinear; the first averages over all pixels (`antialias`). `F.interpolate`
    gives the same to 1e-4 of a level, but takes one size per call; here the number of operations
    does not depend on that of images.
    """
    count, side, _, _ = pixels.shape
    sides = (decide.between("low resolution side", low, high) * side).round_().clamp_(1, side)
    small_n = decide.send(sides)[:, None, None]
    smallest, largest = int(sides.min()), int(sides.max())
    fewer = _averages(small_n, side, largest, taps=2 * math.ceil(side / smallest) + 1)
    more = _between(small_n, side)
    # Columns first, as torch does. Each is one run of memory when the image lies on its side.
    narrow = _mixed(pixels.transpose(1, 2).reshape(count, side, side * 3), *fewer)
    reduced = _mixed(_turned(narrow, side), *fewer)
    wide = _mixed(_turned(reduced, largest), *more)
    result = _mixed(_turned(wide, largest), *more)
    return result.clamp_(0, 255).view(count, side, side, 3)


def _turned(rows: Tensor, length: int) -> Tensor:
    """Return images, [n, m, length · 3], lying on their side: [n, length, m · 3]."""
    count, lines, _ = rows.shape
    return rows.view(count, lines, length, 3).transpose(1, 2).reshape(count, length, lines * 3)


def _averages(small_n: Tensor, side: int, largest: int, *, taps: int) -> tuple[Tensor, Tensor]:
    """Return which lines make one line of a smaller image, and their weights: [n, largest, taps].

    `small_n`, [n, 1, 1], is the side of each; what is beyond it is of no use, but finite.
    """
    line = torch.arange(largest, device=small_n.device)[:, None] + 0.5
    scale = torch.full_like(small_n, side) / small_n
    centre = line * scale
    first = (centre - scale + 0.5).long().clamp_(0, side - 1)
    index = first + torch.arange(taps, device=small_n.device)
    weight = 1 - ((index - centre + 0.5) * (1 / scale)).abs_()
    weight = weight.clamp_(min=0).masked_fill_(index >= side, 0)
    total = weight[..., :1].clone()
    for tap in range(1, taps):  # one after the other: the order decides the last bit
        total += weight[..., tap : tap + 1]
    return index.clamp_(max=side - 1), weight / total.clamp_(min=1e-6)


def _between(small_n: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Return which two lines of a smaller image make one of S, and their weights: [n, S, 2]."""
    scale = (small_n / torch.full_like(small_n, side)).double()
    line = torch.arange(side, device=small_n.device)[:, None] + 0.5
    position = (line * scale - 0.5).float().clamp_(min=0)  # rounded once, as torch does
    last = small_n.long() - 1
    index = position.long().minimum(last)
    weight = position - index
    return torch.cat(((index + 1).minimum(last), index), -1), torch.cat((weight, 1 - weight), -1)


def _mixed(lines: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """Return weighted sums of T lines of each image, [n, m, F] of [n, S, F], in one operation.

    `index` and `weight`, [n, m, T], say which.
    """
    count, side, size = lines.shape
    start = torch.arange(0, count * side, side, device=lines.device)[:, None, None]
    table = lines.reshape(count * side, size)
    number, weights = (index + start).flatten(0, 1), weight.flatten(0, 1)
    mixed = F.embedding_bag(number, table, mode="sum", per_sample_weights=weights)
    return mixed.view(count, -1, size)
