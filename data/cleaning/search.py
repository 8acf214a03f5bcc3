"""The nearest centres of other identities, by all products, a block at a time.

Some centres are near to many others; a cosine says little before that is taken off. The level of a
centre is the mean of its next cosines after the highest one, and of both ends the mean counts:
adaptive symmetric score normalisation without the division (Matejka et al., Interspeech 2017).

Shape legend: n embeddings, m of a chunk, C centres, k that are asked for, d embedding size.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from data.cleaning.embeddings import Floats, Int64s

COHORT: Final = 10  # cosines that a level is the mean of
CHUNK: Final = 2048  # centres that are compared at a time
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


@dataclass(frozen=True)
class Near:
    """The nearest other centre of each."""

    cosines: Floats  # [n]
    numbers: Int64s  # [n], -1 if there is none
    level: Floats  # [n], the mean of the next cosines
    level_if_nearer: Floats  # [n], what it would be if there were one more centre, the nearest

    @property
    def mutual(self) -> NDArray[np.bool_]:
        """Whether each one is in turn the nearest of its nearest, among the same centres."""
        back = self.numbers[self.numbers]
        found: NDArray[np.bool_] = (self.numbers >= 0) & (back == np.arange(len(back)))
        return found

    def scores(self) -> Floats:
        """Return each one's cosine beyond the mean level of both ends."""
        beyond = self.cosines - (self.level + self.level[self.numbers]) / 2
        return beyond.astype(np.float32)


def nearest_centres(
    centres_nd: Floats,
    device: torch.device,
    others_Cd: Floats | None = None,
    own: Int64s | None = None,
) -> Near:
    """Return the nearest of the others of each centre, or of itself and the rest without others.

    `own`, int64 [n], is the number among the others that is left out, -1 for none.
    """
    if others_Cd is None:
        others_Cd, own = centres_nd, np.arange(len(centres_nd))
    elif own is None:
        own = np.full(len(centres_nd), -1, np.int64)
    steps = range(0, len(centres_nd), CHUNK)
    parts = ((centres_nd[i : i + CHUNK], own[i : i + CHUNK]) for i in steps)
    cosines, numbers = nearest_other(parts, others_Cd, device, 1 + COHORT)
    known = np.where(numbers >= 0, cosines, np.nan)
    return Near(cosines[:, 0], numbers[:, 0], _level(known[:, 1:]), _level(known[:, :-1]))


def _level(cosines: Floats) -> Floats:
    """Return the mean of those that are known, 0 where there are none."""
    known = np.maximum((~np.isnan(cosines)).sum(axis=1), 1)
    level: Floats = (np.nansum(cosines, axis=1) / known).astype(np.float32)
    return level
