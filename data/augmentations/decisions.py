"""Random decisions without a generator: hashes of (seed, epoch, sample index, which decision).

As there is no generator's state, the decisions about a sample depend neither on the worker, the
rank or the batch, nor on where the run was resumed.
"""

from copy import copy
from typing import Final

import torch
from torch import Tensor

# The hash takes the position of a decision in this tuple, from 1. Append new names; never change,
# move or reuse one.
DECISIONS: Final = (
    "flip", "crop", "zoom", "shift x", "shift y", "colour", "brightness", "contrast", "saturation",
    "grey", "cutout", "cutout x", "cutout y", "hue", "blur", "blur sigma", "low_resolution",
    "low resolution side", "jpeg", "jpeg quality", "mask", "mask centre", "mask top", "mask drop",
    "mask width", "mask bottom", "mask pleats", "mask light", "mask red", "mask green", "mask blue",
)  # fmt: skip
_NUMBERS: Final = {name: number for number, name in enumerate(DECISIONS, 1)}


class Decisions:
    """Uniform numbers for the samples of a batch, one per sample and decision.

    All are computed on the CPU: the host chooses rows and sizes by them, and would have to wait
    for a GPU to read them.

    Args:
        seed: of all decisions.
        epochs: int64 [b].
        indices: of the samples, int64 [b].
        device: where the pixels are; `send` copies values there.
    """

    def __init__(self, seed: int, epochs: Tensor, indices: Tensor, device: torch.device) -> None:
        epochs, indices = epochs.cpu(), indices.cpu()
        start = torch.full_like(indices, _signed(seed))
        self._samples = _mix(_mix(_mix(start + _GOLDEN) + epochs) + indices)
        self._device = device

    def of(self, rows: Tensor) -> "Decisions":
        """Return the decisions about the samples in these rows of the batch, int64 [n]."""
        part = copy(self)
        part._samples = self._samples[rows]
        return part

    def __call__(self, name: str) -> Tensor:
        """Return a number in [0, 1) per sample, float32 [b]."""
        hashed = _mix(self._samples + _signed(_GOLDEN * _NUMBERS[name]))
        return _shift(hashed, 40).to(torch.float32) / 2**24  # 24 bits are exact in float32

    def between(self, name: str, low: float, high: float) -> Tensor:
        """Return a number in [low, high) per sample, float32 [b]."""
        return self(name) * (high - low) + low

    def whole(self, name: str, low: int, high: int) -> Tensor:
        """Return a whole number from `low` to `high`, both included, per sample: int64 [b]."""
        return (self(name).to(torch.float64) * (high - low + 1)).to(torch.int64) + low

    def send(self, values: Tensor) -> Tensor:
        """Copy `values` to the device of the pixels; the host does not wait."""
        if self._device.type == "cuda":
            values = values.pin_memory()  # a copy from other memory would wait
        return values.to(self._device, non_blocking=True)


def _signed(value: int) -> int:
    """Return the low 64 bits of `value` as a signed number, as int64 tensors have them."""
    return (value + 2**63) % 2**64 - 2**63


_GOLDEN: Final = _signed(0x9E3779B97F4A7C15)
_FIRST: Final = _signed(0xBF58476D1CE4E5B9)
_SECOND: Final = _signed(0x94D049BB133111EB)


def _mix(values: Tensor) -> Tensor:
    """Return SplitMix64's finaliser of `values` (Steele, Lea and Flood, OOPSLA 2014)."""
    values = (values ^ _shift(values, 30)) * _FIRST
    values = (values ^ _shift(values, 27)) * _SECOND
    return values ^ _shift(values, 31)


def _shift(values: Tensor, bits: int) -> Tensor:
    """Return a logical right shift; `>>` on int64 tensors repeats the sign."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)
