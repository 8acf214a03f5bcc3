"""How near two centres are beyond what is usual where they lie.

Some centres are near to many others; a cosine says little before that is taken off. The level of a
centre is the mean of its next cosines after the highest one, and of both ends the mean counts:
adaptive symmetric score normalisation without the division (Matejka et al., Interspeech 2017).

Shape legend: n centres, C that they are compared with, k neighbours.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from data.cleaning.embeddings import Floats, Int64s
from data.cleaning.search import nearest_other

COHORT: Final = 10
CHUNK: Final = 2048


@dataclass(frozen=True)
class Near:
    """The nearest other centre of each."""

    cosines: Floats  # [n]
    numbers: Int64s  # [n], -1 if there is none
    level: Floats  # [n], the mean of the next cosines

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
    rest = np.where(numbers[:, 1:] >= 0, cosines[:, 1:], np.nan)
    known = (numbers[:, 1:] >= 0).sum(axis=1)
    level = np.nansum(rest, axis=1) / np.maximum(known, 1)
    return Near(cosines[:, 0], numbers[:, 0], level.astype(np.float32))
