"""The exponential moving average of a backbone's weights over the steps of training."""

import copy

import torch
from torch import Tensor, nn


class WeightAverage:
    """Keeps the exponential moving average (EMA) of a backbone's weights in `network`.

    After step t, counted from 0, every weight and every running statistic of batch norm becomes
    `d * average + (1 - d) * current`, with `d = min(decay, (1 + t) / (10 + t))`, the rule of
    TensorFlow's `ExponentialMovingAverage`: at first the average follows closely, so that a short
    run does not end near its initial weights. Integers, such as batch norm's counts of batches, are
    copied.

    `network` starts as a copy of the backbone, stays in evaluation mode, and is float32 whatever
    the backbone is. Raises `ValueError` unless `0 < decay < 1`.
    """

    def __init__(self, backbone: nn.Module, decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"decay is {decay}: expected a number between 0 and 1, as 0.9999")
        self.decay = decay
        self.network = copy.deepcopy(backbone).float().requires_grad_(False).eval()
        self._floats: list[tuple[Tensor, Tensor]] = []  # the average's tensors and the backbone's
        self._others: list[tuple[Tensor, Tensor]] = []
        for own, current in zip(_tensors(self.network), _tensors(backbone), strict=True):
            (self._floats if own.is_floating_point() else self._others).append((own, current))

    def decay_at(self, step: int) -> float:
        """Return the decay after step `step` (the first is 0)."""
        return min(self.decay, (1 + step) / (10 + step))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the weights that the backbone has after step `step`, in place."""
        # Lists of all tensors: a GPU gets a few kernels instead of one or two per tensor.
        torch._foreach_lerp_(
            [own for own, _ in self._floats],
            [current.float() for _, current in self._floats],  # itself, if it is float32
            1 - self.decay_at(step),
        )
        if self._others:
            torch._foreach_copy_(
                [own for own, _ in self._others], [current for _, current in self._others]
            )


def _tensors(network: nn.Module) -> list[Tensor]:
    """Return parameters and buffers, each once even where layers share it."""
    return [*network.parameters(), *network.buffers()]
