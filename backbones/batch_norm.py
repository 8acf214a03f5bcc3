"""Batch normalisation whose running statistics can be frozen, or held still for a while.

The layers compute exactly what their PyTorch parents compute and have the same state. They add
one flag, because `module.train()` would otherwise wake every layer that was put into eval mode.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


class BatchNorm1d(nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d` that stays in eval mode while `frozen` is true."""

    frozen = False

    def train(self, mode: bool = True) -> "BatchNorm1d":
        """Enter training mode, or stay in eval mode when the layer is frozen."""
        super().train(mode and not self.frozen)
        return self


class BatchNorm2d(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` that stays in eval mode while `frozen` is true."""

    frozen = False

    def train(self, mode: bool = True) -> "BatchNorm2d":
        """Enter training mode, or stay in eval mode when the layer is frozen."""
        super().train(mode and not self.frozen)
        return self


def freeze_batch_norm(module: nn.Module) -> None:
    """Fix the running statistics of every batch-norm layer in `module`, in place and for good.

    The layers then normalise with the statistics that they hold, in training too, so a sample's
    embedding no longer depends on the other samples of its batch nor on how a batch is cut over
    ranks. Weights and biases go on learning.

    Raises `ValueError` for a batch-norm layer that is not one of this file's: a later
    `module.train()` would wake it.
    """
    for name, layer in module.named_modules():
        if isinstance(layer, BatchNorm1d | BatchNorm2d):
            layer.frozen = True
            layer.eval()
        elif isinstance(layer, _BatchNorm):
            raise ValueError(
                f"layer {name!r} is a {type(layer).__module__}.{type(layer).__name__}, which "
                "cannot stay frozen: build it as backbones.batch_norm.BatchNorm1d or BatchNorm2d"
            )


@contextmanager
def running_statistics_held(module: nn.Module) -> Iterator[None]:
    """Let every batch-norm layer in `module` run without changing its running statistics.

    Within the block the layers in training mode still normalise with their batch's statistics;
    they update copies of the running ones, which are dropped at the end.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, _BatchNorm)]
    held = [(layer.running_mean, layer.running_var, layer.num_batches_tracked) for layer in layers]
    for layer, tensors in zip(layers, held, strict=True):
        layer.running_mean, layer.running_var, layer.num_batches_tracked = (
            None if tensor is None else tensor.clone() for tensor in tensors
        )
    try:
        yield
    finally:
        for layer, tensors in zip(layers, held, strict=True):
            layer.running_mean, layer.running_var, layer.num_batches_tracked = tensors
