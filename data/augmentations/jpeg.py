"""The losses of JPEG compression, computed on the device.

Shape legend: n samples, S image side, P is S rounded up to a multiple of 16.

Colours, subsampling (4:2:0), tables and roundings are those of libjpeg as its documentation and
ITU-T T.81 give them, with its default "smooth" upsampling. Entropy coding is lossless and left out.

Quantisation would turn a difference in the last bit of a sum into a visible one. So all sums are
exact: all terms are multiples of one power of two, and their sums fit the 24 bits of float32 in any
order of summation. CPUs and GPUs therefore agree (if matrix products are float32, torch's default),
and so do batches of any size. torchvision's `jpeg` encodes files on the CPU: faster by a quarter
there, but with other bits, and the host would have to wait for a GPU.
"""

from functools import cache
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from data.augmentations.decisions import Decisions

# T.81, annex K.1: luma and chroma, by rows.
_STEPS: Final = torch.tensor(
    [
        [
            16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55,
            14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62,
            18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
            49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
        ],
        [
            17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99,
            24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99, 99, 99, 99,
            *[99] * 32,
        ],
    ]
)  # fmt: skip

# The transform is orthogonal, so coefficients and pixels of a block are below 2^11, which leaves 13
# of float32's 24 bits for fractions.
_FRACTIONS: Final = 2**13


def compressed(pixels: Tensor, decide: Decisions, *, low: int, high: int) -> Tensor:
    """Return `pixels`, float32 [n, S, S, 3] of 0 to 255, as they would be read from JPEG files.

    Pixels are first rounded to whole levels. Each sample's quality is a whole number from `low` to
    `high`, within 1 to 100.
    """
    steps = decide.send(quantisation_steps(decide.whole("jpeg quality", low, high)))
    side = pixels.shape[1]
    luma, chroma = _to_ycc(pixels.round())
    luma = _quantised(_padded(luma), steps[0])[:, :side, :side]
    padded = _padded(chroma)
    pairs = padded[..., 0::2, :] + padded[..., 1::2, :]
    # Halves are rounded down and up alternately, which keeps the mean.
    bias = _alternating(padded.shape[-1] // 2, pixels.device) + 1
    quarters = (pairs[..., 0::2] + pairs[..., 1::2] + bias).div_(4).floor_()
    quarters = _quantised(quarters.flatten(0, 1), steps[1].repeat(2, 1))
    chroma = _upsampled(quarters.view(2, len(pixels), *quarters.shape[1:]), side)
    return pixels.copy_(_to_rgb(luma, chroma).permute(1, 2, 3, 0))


def quantisation_steps(quality_n: Tensor) -> Tensor:
    """Return libjpeg's tables for these qualities, 1 to 100, int64 [n]: float32 [2, n, 64]."""
    scale_n = torch.where(quality_n < 50, 5000 // quality_n, 200 - 2 * quality_n)
    steps = (_STEPS[:, None] * scale_n[:, None] + 50) // 100
    return steps.clamp_(1, 255).to(torch.float32)


def _to_ycc(levels: Tensor) -> tuple[Tensor, Tensor]:
    """Return luma [n, S, S] and chroma [2, n, S, S] of RGB [n, S, S, 3], in whole levels."""
    red, green, blue = levels.permute(3, 0, 1, 2).contiguous()
    luma = (red * 19595).add_(green, alpha=38470).add_(blue, alpha=7471).add_(32768)
    chroma = torch.empty((2, *red.shape), device=red.device)
    torch.mul(blue, 32768, out=chroma[0]).sub_(red, alpha=11059).sub_(green, alpha=21709)
    torch.mul(red, 32768, out=chroma[1]).sub_(green, alpha=27439).sub_(blue, alpha=5329)
    chroma.add_(2**23 + 32767)  # which makes what is floored positive
    return luma.div_(2**16).floor_(), chroma.div_(2**16).floor_()


def _to_rgb(luma: Tensor, chroma: Tensor) -> Tensor:
    """Return RGB [3, n, S, S] of luma [n, S, S] and chroma [2, n, S, S], in whole levels."""
    blue, red = chroma - 128
    change = torch.empty((3, *luma.shape), device=luma.device)
    torch.mul(red, 91881, out=change[0])
    torch.mul(red, -46802, out=change[1]).sub_(blue, alpha=22554)
    torch.mul(blue, 116130, out=change[2])
    return change.add_(32768).div_(2**16).floor_().add_(luma).clamp_(0, 255)


def _padded(planes: Tensor) -> Tensor:
    """Return [..., S, S] as [..., P, P] by repeating the last row and column."""
    side = planes.shape[-1]
    padding = -side % 16
    if not padding:
        return planes
    padded = torch.arange(side + padding, device=planes.device).clamp_(max=side - 1)
    return planes.index_select(-2, padded).index_select(-1, padded)


def _upsampled(planes: Tensor, side: int) -> Tensor:
    """Return [2, n, P/2, P/2] at twice the size, cropped to [2, n, S, S]: 3/4 near and 1/4 far."""
    half = (side + 1) // 2
    large = F.interpolate(planes[..., :half, :half], scale_factor=2.0, mode="bilinear")
    bias = (8 - _alternating(2 * half, planes.device)) / 16
    return large.add_(bias).floor_()[..., :side, :side]


def _alternating(length: int, device: torch.device) -> Tensor:
    """Return 0, 1, 0, 1 and so on."""
    return torch.arange(length, device=device) % 2


def _quantised(planes: Tensor, steps: Tensor) -> Tensor:
    """Return planes of levels, [n, P, P] or half that side, quantised in steps [n, 64]."""
    count, side, _ = planes.shape
    transform = _transform(planes.device)
    blocks = planes.view(count, side // 8, 8, side // 8, 8).transpose(2, 3).reshape(count, -1, 64)
    coefficients = (blocks - 128) @ transform.T
    steps = steps[:, None]
    counts = coefficients.div_(steps)
    counts = counts.abs().add_(0.5).floor_().copysign_(counts)
    levels = (counts.mul_(steps) @ transform).add_(128.5).floor_().clamp_(0, 255)
    return levels.view(count, side // 8, side // 8, 8, 8).transpose(2, 3).reshape(planes.shape)


@cache
def _transform(device: torch.device) -> Tensor:
    """Return the cosine transform of a block, by rows: float32 [64 coefficients, 64 pixels]."""
    k = torch.arange(8, dtype=torch.float64)
    cosines = torch.cos((2 * k + 1) * k[:, None] * (torch.pi / 16)) / 2
    cosines[0] /= 2**0.5
    exact = torch.kron(cosines, cosines)
    return ((exact * _FRACTIONS).round() / _FRACTIONS).to(device, torch.float32)
