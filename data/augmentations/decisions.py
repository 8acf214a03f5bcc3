"""Random decisions without a generator: hashes of (seed, epoch, sample index, which decision).

No generator has a state, so what is decided for a sample depends neither on the worker or the rank
nor on the batch that it came in or where the run was resumed.
"""

from copy import copy
from typing import Final

import torch
from torch import Tensor

# Which decision: a number mixed into the hash. Numbers are never given to another name.
_DECISIONS: Final = {
    "flip": 1,
    "crop": 2,
    "zoom": 3,
    "shift x": 4,
    "shift y": 5,
    "colour": 6,
    "brightness": 7,
    "contrast": 8,
    "saturation": 9,
    "grey": 10,
    "cutout": 11,
    "cutout x": 12,
    "cutout y": 13,
    "hue": 14,
    "blur": 15,
    "blur sigma": 16,
    "low_resolution": 17,
    "low resolution side": 18,
    "jpeg": 19,
    "jpeg quality": 20,
    "mask": 21,
    "mask centre": 22,
    "mask top": 23,
    "mask drop": 24,
    "mask width": 25,
    "mask bottom": 26,
    "mask pleats": 27,
    "mask light": 28,
    "mask red": 29,
    "mask green": 30,
    "mask blue": 31,
}


class Decisions:
    """Uniform numbers of a batch's samples, one a sample and decision.

    All are made on the CPU: rows and sizes are chosen by them, and reading those from a GPU would
    make the host wait for it.

    Args:
        seed: of all decisions.
        epochs: int64 [b].
        indices: of the samples, int64 [b].
        device: where the pixels are, to which `send` sends.
    """

    def __init__(self, seed: int, epochs: Tensor, indices: Tensor, device: torch.device) -> None:
        epochs, indices = epochs.cpu(), indices.cpu()
        start = torch.full_like(indices, _signed(seed))
        self._samples = _mix(_mix(_mix(start + _GOLDEN) + epochs) + indices)
        self._device = device

    def of(self, rows: Tensor) -> "Decisions":
        """Return the decisions about these samples of the batch, by their places, int64 [n]."""
        part = copy(self)
        part._samples = self._samples[rows]
        return part

    def __call__(self, name: str) -> Tensor:
        """Return one number in [0, 1) a sample, float32 [b]."""
        hashed = _mix(self._samples + _signed(_GOLDEN * _DECISIONS[name]))
        return _shift(hashed, 40).to(torch.float32) / 2**24  # 24 bits are exact in float32

    def between(self, name: str, low: float, high: float) -> Tensor:
        """Return one number in [low, high) a sample, float32 [b]."""
        return self(name) * (high - low) + low

    def whole(self, name: str, low: int, high: int) -> Tensor:
        """Return one whole number from `low` to `high`, both included, a sample: int64 [b]."""
        return (self(name).to(torch.float64) * (high - low + 1)).to(torch.int64) + low

    def send(self, values: Tensor) -> Tensor:
        """Return `values` on the device of the pixels; the host does not wait for the copy."""
        if self._device.type == "cuda":
            values = values.pin_memory()  # a copy from memory that is not would wait
        return values.to(self._device, non_blocking=True)


def _signed(value: int) -> int:
    """Return the 64 bits of `value` as a signed number, which is what tensors have."""
    return (value + 2**63) % 2**64 - 2**63


_GOLDEN: Final = _signed(0x9E3779B97F4A7C15)
_FIRST: Final = _signed(0xBF58476D1CE4E5B9)
_SECOND: Final = _signed(0x94D049BB133111EB)


def _mix(values: Tensor) -> Tensor:
    """Return SplitMix64's finaliser of int64 values (Steele, Lea and Flood, OOPSLA 2014)."""
    values = (values ^ _shift(values, 30)) * _FIRST
    values = (values ^ _shift(values, 27)) * _SECOND
    return values ^ _shift(values, 31)


def _shift(values: Tensor, bits: int) -> Tensor:
    """Return a logical right shift; that of int64 tensors repeats the sign."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)
