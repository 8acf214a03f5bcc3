import torch
from torch import Tensor

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
