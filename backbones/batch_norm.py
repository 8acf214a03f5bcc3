"""Batch normalisation whose running statistics can be frozen, or not updated for a while.

The layers compute exactly what PyTorch's do and have the same state. They only add a flag, because
`module.train()` would otherwise put layers that are in evaluation mode back into training mode.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


class _Freezable(nn.Module):
    frozen = False

    def train(self, mode: bool = True) -> Self:
        """Enter training mode, unless the layer is frozen."""
        return super().train(mode and not self.frozen)


class BatchNorm1d(_Freezable, nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d` that stays in evaluation mode while `frozen` is true."""


class BatchNorm2d(_Freezable, nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` that stays in evaluation mode while `frozen` is true."""


def freeze_batch_norm(module: nn.Module) -> None:
    """Freeze the running statistics of every batch-norm layer in `module`, in place.

    From then on the layers normalise with their current statistics in training too, so the
    embedding of a sample depends neither on the other samples of its batch nor on how a batch is
    divided among ranks. Weights and biases are still trained.

    Raises `ValueError` for a batch-norm layer of another class, which a later `module.train()`
    would put back into training mode.
    """
    for name, layer in module.named_modules():
        if isinstance(layer, _Freezable):
            layer.frozen = True
            layer.eval()
        elif isinstance(layer, _BatchNorm):
            raise ValueError(
                f"layer {name!r} is a {type(layer).__module__}.{type(layer).__name__}, which "
                "cannot stay frozen: use backbones.batch_norm.BatchNorm1d or BatchNorm2d instead"
            )


@contextmanager
def unchanged_running_statistics(module: nn.Module) -> Iterator[None]:
    """Keep the running statistics of every batch-norm layer in `module` as they are.

    Within the context, layers in training mode still normalise with the statistics of their batch;
    they update copies of the running statistics, which are discarded at the end.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, _BatchNorm)]
    kept = [(layer.running_mean, layer.running_var, layer.num_batches_tracked) for layer in layers]
    for layer, tensors in zip(layers, kept, strict=True):
        layer.running_mean, layer.running_var, layer.num_batches_tracked = (
            None if tensor is None else tensor.clone() for tensor in tensors
        )
    try:
        yield
    finally:
        for layer, tensors in zip(layers, kept, strict=True):
            layer.running_mean, layer.running_var, layer.num_batches_tracked = tensors
