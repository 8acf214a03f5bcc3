"""Initial class centres: a function of the seed and the class id alone."""

import torch
from torch import Tensor

from recognition.head.hashing import text_hash
from recognition.head.kernels.workspace import prefer_huge_pages

STANDARD_DEVIATION = 0.01  # the Partial FC paper's; the cosines do not depend on it, the steps do
BLOCK = 1024  # class ids drawn from one generator; changing it changes every initial centre


def initial_centres(
    start: int, stop: int, embedding_size: int, seed: int, device: torch.device | str = "cpu"
) -> Tensor:
    """Return the centres of classes `[start, stop)`: float32 [stop − start, embedding_size].

    Drawn from N(0, 0.01²) in blocks of 1,024 class ids, each from its own CPU generator seeded by a
    hash of (seed, block). A class gets the same centre, bit for bit, on any number of ranks and on
    any device, and never needs the rest of the table.
    """
    centres = prefer_huge_pages(torch.empty(stop - start, embedding_size, device=device))
    for first in range(start - start % BLOCK, stop, BLOCK):
        block_seed = text_hash(f"class centres, seed {seed}, block {first // BLOCK}")
        generator = torch.Generator().manual_seed(block_seed >> 1)  # it takes what fits an int64
        block = torch.randn(BLOCK, embedding_size, generator=generator).mul_(STANDARD_DEVIATION)
        low, high = max(first, start), min(first + BLOCK, stop)
        centres[low - start : high - start] = block[low - first : high - first]
    return centres
