"""Trading time for memory: a block's activations are computed again in the backward pass."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from backbones.batch_norm import running_statistics_held


def run_blocks(blocks: Iterable[nn.Module], x: Tensor, *, recompute: bool) -> Tensor:
    """Return `x` sent through `blocks`; if `recompute`, keep only each block's input for backward.

    Gradients and running statistics are the same either way: the second forward pass of a block
    sees the same input and leaves the running statistics alone. The blocks must not draw random
    numbers, which are not replayed.

    Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost", arXiv 1604.06174.
    """
    for block in blocks:
        x = _recomputed(block, x) if recompute else block(x)
    return x


# torch.compile refuses `context_fn`: it skips this frame and compiles the blocks one by one.
@torch.compiler.disable(recursive=False)  # type: ignore[no-untyped-call, untyped-decorator]  # torch's own gap
def _recomputed(block: nn.Module, x: Tensor) -> Tensor:
    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), running_statistics_held(block)

    output: Tensor = checkpoint(
        block, x, use_reentrant=False, preserve_rng_state=False, context_fn=contexts
    )
    return output
