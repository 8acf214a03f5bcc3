"""A hash of what an image looks like, which encoding it anew hardly changes.

The 64 lowest frequencies of a small grey image, each above or below their median (the DCT hash of
C. Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010).

Shape legend: b images, S image side.
"""

import math
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

SIDE: Final = 32  # of the small image
FREQUENCIES: Final = 8  # of each direction, without the constant one
BITS: Final = FREQUENCIES**2
GREY: Final = (0.299, 0.587, 0.114)  # of R, G and B, ITU-R BT.601


def hash_bits(images: Tensor) -> Tensor:
    """Return the bits of images, float32 [b, 3, S, S] of any range, as 0 and 1: float32 [b, 64]."""
    weights = torch.tensor(GREY, device=images.device).view(1, 3, 1, 1)
    grey = (images * weights).sum(dim=1, keepdim=True)
    small = F.interpolate(grey, size=(SIDE, SIDE), mode="area")[:, 0]
    place = torch.arange(SIDE, device=images.device, dtype=torch.float32)
    order = torch.arange(1, FREQUENCIES + 1, device=images.device, dtype=torch.float32)
    basis = torch.cos(math.pi / SIDE * order[:, None] * (place[None] + 0.5))
    found = (basis @ small @ basis.T).flatten(1)
    return (found > found.median(dim=1, keepdim=True).values).to(torch.float32)


def pack_bits(bits: NDArray[np.float32]) -> NDArray[np.uint64]:
    """Return bits [b, 64] as one number each, uint64 [b]."""
    packed: NDArray[np.uint64] = np.packbits(bits > 0.5, axis=1).view(">u8")[:, 0].astype(np.uint64)
    return packed


def distances(one: NDArray[np.uint64], other: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return in how many bits hashes differ, int64 of the broadcast shape of both."""
    different = np.bitwise_xor(one, other)
    bits = np.unpackbits(different[..., None].view(np.uint8), axis=-1)
    counts: NDArray[np.int64] = bits.sum(axis=-1, dtype=np.int64)
    return counts
