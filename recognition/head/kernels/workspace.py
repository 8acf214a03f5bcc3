"""Memory for a block's temporaries, taken once and used again for every block.

On a CPU a fresh temporary of some megabytes is fresh pages from the system, each of them cleared
and mapped at its first touch, which takes longer than the arithmetic on it; a third of a step, in
bfloat16 two fifths, went there. Reused, the temporaries stay in cache besides.
"""

import math

import torch

from recognition.head.kernels.huge_pages import prefer_huge_pages


class Workspace:
    """Named temporaries. What is taken holds until the same name is taken again.

    Holds the largest of each name and dtype: O(block), and given back with the workspace.
    """

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, torch.dtype, torch.device], torch.Tensor] = {}
        self._spare: list[torch.Tensor] = []

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

    def lend(
        self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
    ) -> torch.Tensor:
        """Return a contiguous tensor of a shape, with any content, that holds until `give_back`.

        The memory of one that was given back, where it is enough; else new memory. One that is
        dropped instead of given back is lost to the workspace and no more.
        """
        size = math.prod(shape)
        for place, spare in enumerate(self._spare):
            if spare.dtype == dtype and spare.device == device and spare.numel() >= size:
                return self._spare.pop(place)[:size].view(shape)
        self._spare.clear()  # too small: not to be kept beside what is lent now
        return prefer_huge_pages(torch.empty(size, dtype=dtype, device=device)).view(shape)

    def give_back(self, tensor: torch.Tensor) -> None:
        """Take back what was lent; nobody may look at it any more."""
        whole = tensor.untyped_storage()
        flat = torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(whole)
        self._spare.append(flat)

    def like(self, name: str, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Return a contiguous tensor of another's shape and device, with any content."""
        return self.take(name, tuple(tensor.shape), dtype, tensor.device)
