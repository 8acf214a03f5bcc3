"""Memory for a block's temporaries, taken once and used again for every block.

On a CPU a fresh temporary of some megabytes is fresh pages from the system, each of them cleared
and mapped at its first touch, which takes longer than the arithmetic on it; a third of a step, in
bfloat16 two fifths, went there. Reused, the temporaries stay in cache besides.
"""

import math

import torch


class Workspace:
    """Named temporaries. What is taken holds until the same name is taken again.

    Holds the largest of each name and dtype: O(block), and given back with the workspace.
    """

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, torch.dtype, torch.device], torch.Tensor] = {}

    def take(
        self, name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
    ) -> torch.Tensor:
        """Return a contiguous tensor of a shape, with any content."""
        size, key = math.prod(shape), (name, dtype, device)
        buffer = self._buffers.get(key)
        if buffer is None or buffer.numel() < size:
            buffer = torch.empty(size, dtype=dtype, device=device)
            self._buffers[key] = buffer
        return buffer[:size].view(shape)

    def like(self, name: str, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Return a contiguous tensor of another's shape and device, with any content."""
        return self.take(name, tuple(tensor.shape), dtype, tensor.device)
