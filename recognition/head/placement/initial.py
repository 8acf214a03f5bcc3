"""Initial class centres: a function of the seed and the class id alone."""

from concurrent.futures import ThreadPoolExecutor

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
    any device, and never needs the rest of the table. As many threads as torch has draw a block at
    a time, into the table itself where that is possible.
    """
    centres = prefer_huge_pages(torch.empty(stop - start, embedding_size, device=device))
    blocks = range(start - start % BLOCK, stop, BLOCK)

    threads = max(1, min(torch.get_num_threads(), len(blocks)))
    pin = centres.device.type == "cuda"
    spares = [torch.empty(BLOCK, embedding_size, pin_memory=pin) for _ in range(threads)]

    def draw(own: range, spare: Tensor) -> None:
        for first in own:
            low, high = max(first, start), min(first + BLOCK, stop)
            rows = centres[low - start : high - start]
            in_place = rows.device.type == "cpu" and len(rows) == BLOCK
            block = rows if in_place else spare
            block_seed = text_hash(f"class centres, seed {seed}, block {first // BLOCK}")
            generator = torch.Generator().manual_seed(
                block_seed >> 1
            )  # it takes what fits an int64
            # `randn` and a product give the same bits, but torch spreads a product over threads.
            block.normal_(0.0, STANDARD_DEVIATION, generator=generator)
            if not in_place:
                rows.copy_(block[low - first : high - first])

    with ThreadPoolExecutor(threads, thread_name_prefix="centres") as pool:
        for done in [pool.submit(draw, blocks[n::threads], spares[n]) for n in range(threads)]:
            done.result()
    return centres
