from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from data.augmentations.augment import Change
from data.augmentations.decisions import Decisions


def decisions(count: int, seed: int = 0) -> Decisions:
    """Return the decisions about samples 0 … count - 1 in epoch 0."""
    indices = torch.arange(count)
    return Decisions(seed, torch.zeros_like(indices), indices, torch.device("cpu"))


def noise(count: int, side: int) -> Tensor:
    """Return random pixels, float32 [count, side, side, 3], in whole levels."""
    generator = torch.Generator().manual_seed(side)
    return torch.randint(0, 256, (count, side, side, 3), generator=generator).float()


def pictures(count: int, side: int) -> Tensor:
    """Return smooth pictures with a little noise, like photographs; otherwise as `noise`."""
    coarse = noise(count, max(2, side // 10)).permute(0, 3, 1, 2)
    smooth = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic")
    grain = (noise(count, side) - 127.5) / 16
    return (smooth.permute(0, 2, 3, 1) + grain).round().clamp(0, 255).contiguous()


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    count = 0

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.count += 1
        return operation(*args, **(kwargs or {}))


def count_operations(change: Change, count: int) -> int:
    """Return how many operations torch is given to change `count` images.

    They include views: on a GPU there are no more launches.
    """
    pixels, decide = noise(count, 16), decisions(count)
    with _Counter() as counter:  # type: ignore[no-untyped-call]
        change(pixels, decide)
    return int(counter.count)
