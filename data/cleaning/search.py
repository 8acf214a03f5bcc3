"""The nearest centres of other identities, by all products, a block at a time.

Shape legend: n embeddings, m of a chunk, C centres, k that are asked for, d embedding size.
"""

from collections.abc import Iterable
from typing import Final

import numpy as np
import torch

from data.cleaning.embeddings import Floats, Int64s

CENTRES: Final = 16_384  # of a block: with 2,048 embeddings its cosines take 134 MB


def nearest_other(
    chunks: Iterable[tuple[Floats, Int64s]], centres_Cd: Floats, device: torch.device, k: int = 1
) -> tuple[Floats, Int64s]:
    """Return the k highest cosines with centres that are not one's own, and whose, [n, k] both.

    Equals `(x @ centres.T)` without the own centre, then its k largest, the largest first. Each of
    `chunks` has embeddings float32 [m, d] and the number of each one's own centre, int64 [m], -1
    for none. Embeddings and centres have length 1. Where there are fewer than k others, a cosine
    is -1 and its centre -1. The centres are kept on `device`; products are of float32 there too.
    """
    centres = torch.from_numpy(centres_Cd).to(device)
    cosines, numbers = [], []
    for embeddings, own in chunks:
        x, mine = (torch.from_numpy(part).to(device) for part in (embeddings, own))
        best = torch.full((len(x), k), -1.0, device=device)
        where = torch.full((len(x), k), -1, dtype=torch.int64, device=device)
        for start in range(0, len(centres), CENTRES):
            block = centres[start : start + CENTRES]
            found = x @ block.T
            inside = ((mine >= start) & (mine < start + len(block))).nonzero()[:, 0]
            found[inside, mine[inside] - start] = -2.0
            top, at = found.topk(min(k, len(block)), dim=1)
            both = torch.cat([best, top], dim=1)
            numbers_both = torch.cat([where, at + start], dim=1)
            best, order = both.topk(k, dim=1)
            where = numbers_both.gather(1, order)
        cosines.append(best.cpu().numpy())
        numbers.append(where.cpu().numpy())
    if not cosines:
        return np.empty((0, k), np.float32), np.empty((0, k), np.int64)
    return np.concatenate(cosines), np.concatenate(numbers)
