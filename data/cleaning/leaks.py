"""People of verification sets who are in a dataset too.

Shape legend: p people of a set, C identities of the dataset, d embedding size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from data.cleaning.embeddings import Floats, Int64s, Vectors
from data.cleaning.groups import Groups
from data.cleaning.identity import centre_of, robust_cosines
from data.cleaning.search import Near, nearest_centres

PLANTED: Final = 2000  # identities of which some images play a person of a verification set
IMAGES: Final = 2  # of such a person
Choose = Callable[[str, NDArray[np.floating[Any]], NDArray[np.floating[Any]]], float]


@dataclass(frozen=True)
class KnownPeople:
    """People of a verification set, as far as its pairs say who they are."""

    name: str  # of the set
    centres: Floats  # [p, d], of each one's images
    images: Int64s  # [p], one of them, as a number of the set


class LeakedIdentities(NamedTuple):
    """Identities of the dataset that are people of a set, the surest first."""

    name: str
    labels: Int64s  # numbers of identities
    images: Int64s
    cosines: Floats
    scores: Floats


def find_leaks(
    people: Sequence[KnownPeople],
    groups: Groups,
    centres: Floats,
    vectors: Vectors,
    device: torch.device,
    random: np.random.Generator,
    least: float,
    choose: Choose,
) -> list[LeakedIdentities]:
    """Return who of each set is an identity: each is the nearest one of the other.

    Images with a cosine below `least` take no part in planting. `choose` gives the threshold for
    "leaked", the same for all sets.
    """
    if not people:
        return []
    both = [
        (nearest_centres(s.centres, device, centres), nearest_centres(centres, device, s.centres))
        for s in people
    ]
    scores = []
    for there, back in both:
        mutual = back.numbers[there.numbers] == np.arange(len(there.numbers))
        score = there.cosines - (there.level + back.level[there.numbers]) / 2
        scores.append(np.where(mutual, score, np.nan))
    planted = _planted(both[0][1], groups, centres, vectors, device, random, least)
    every = np.concatenate(scores)
    # An identity that leaks is nearest to the set's own images of it: none is planted there.
    numbers = np.concatenate([there.numbers for there, _ in both])
    planted[numbers[every >= choose("leaked", every, planted)]] = np.nan
    threshold = choose("leaked", every, planted)
    found = []
    for known, (there, _), score in zip(people, both, scores, strict=True):
        rows = np.flatnonzero(score >= threshold)
        rows = rows[np.argsort(-score[rows], kind="stable")]
        found.append(
            LeakedIdentities(
                known.name,
                there.numbers[rows],
                known.images[rows],
                there.cosines[rows],
                score[rows].astype(np.float32),
            )
        )
    return found


def _planted(
    back: Near,
    groups: Groups,
    centres: Floats,
    vectors: Vectors,
    device: torch.device,
    random: np.random.Generator,
    least: float,
) -> Floats:
    """Return the scores of identities if some of their images were a person of a set, [C].

    NaN where that was not tried. Only images that are near to the others are taken: those of a set
    are of its people.
    """
    large = np.flatnonzero(groups.sizes >= 2 * IMAGES)
    if len(large) > PLANTED:
        large = np.sort(random.choice(large, PLANTED, replace=False))
    probes, cosines = [], []
    for _, _, every in groups.embeddings(vectors, large):
        unit = every[robust_cosines(every, least)[1]]
        taken = random.permutation(len(unit)) < IMAGES
        probes.append(centre_of(unit, taken))
        cosines.append(float(probes[-1] @ centre_of(unit, ~taken)))
    found = np.full(groups.count, np.nan, np.float32)
    if not probes:
        return found
    others = nearest_centres(np.stack(probes), device, centres, large)
    cosine = np.array(cosines, np.float32)
    level = (others.level_if_nearer + back.level_if_nearer[large]) / 2
    mutual = (cosine > others.cosines) & (cosine > back.cosines[large])
    found[large] = np.where(mutual, cosine - level, -np.inf)
    return found
