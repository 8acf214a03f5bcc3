"""Activation checkpointing: the backward pass computes the activations of a block again."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from backbones.batch_norm import unchanged_running_statistics


def run_blocks(blocks: Iterable[nn.Module], x: Tensor, *, recompute: bool) -> Tensor:
    """Apply `blocks` to `x`; with `recompute`, keep only the input of each block for backward.

    Gradients and running statistics are the same either way: the second forward pass of a block
    has the same input and does not update the running statistics. The blocks must not use random
    numbers, which would differ between the passes.

    Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost", arXiv 1604.06174.
    """
    for block in blocks:
        x = _checkpointed(block, x) if recompute else block(x)
    return x


# torch.compile rejects `context_fn`, so it skips this function and compiles each block by itself.
@torch.compiler.disable(recursive=False)  # type: ignore[no-untyped-call, untyped-decorator]  # torch's own gap
def _checkpointed(block: nn.Module, x: Tensor) -> Tensor:
    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), unchanged_running_statistics(block)

    output: Tensor = checkpoint(
        block, x, use_reentrant=False, preserve_rng_state=False, context_fn=contexts
    )
    return output
