"""Chooses verification pairs from folders of identities, fold by fold."""

import random
from collections.abc import Sequence
from math import comb, isqrt
from pathlib import Path

import numpy as np

from data.datasets.folders import FolderImages
from data.loading.decode import BadImage, decode_into
from data.pairs.bin_file import write_pair_file
from data.pairs.lists import PairListError, Progress, Written

Choice = tuple[int, int, bool]  # two images, and whether they show one person


def pack_folder(
    folder: Path,
    output: Path,
    *,
    pairs: int,
    folds: int = 10,
    seed: int = 0,
    progress: Progress | None = None,
) -> Written:
    """Choose pairs among the images of a folder and write them as a verification set.

    Every fold has as many pairs of one person as of two, no pair twice, and people of its own.

    Args:
        folder: one sub-folder of images an identity.
        output: the `.bin`, replaced whole.
        pairs: how many in all, a multiple of twice the number of folds.
        folds: into how many folds the set is to be cut; the published protocol has 10.
        seed: names the choice.
        progress: called with (images read, images in all).

    Raises `PairListError` where there are too few identities or images, and for an image that
    cannot be used; `DatasetError` for a folder of another kind.
    """
    dataset = FolderImages(folder)
    counts = np.bincount(dataset.labels).tolist()
    try:
        chosen = choose_pairs(counts, pairs=pairs, folds=folds, seed=seed)
    except PairListError as error:
        raise PairListError(f"{folder}: {error}") from None
    contents: dict[int, bytes] = {}
    needed = sorted({image for a, b, _ in chosen for image in (a, b)})
    for number, image in enumerate(needed, start=1):
        contents[image] = bytes(dataset.encoded(image))
        try:
            decode_into(np.empty((112, 112, 3), np.uint8), contents[image])
        except BadImage as error:
            raise PairListError(f"{dataset.describe(image)}: {error}; remove it") from error
        if progress is not None:
            progress(number, len(needed))
    write_pair_file(
        output,
        [contents[image] for a, b, _ in chosen for image in (a, b)],
        [same for _, _, same in chosen],
    )
    return Written(len(chosen), len(chosen) // 2, len(needed), ())


def choose_pairs(counts: Sequence[int], *, pairs: int, folds: int, seed: int) -> list[Choice]:
    """Return pairs in the order of the file, of images numbered through all identities.

    `counts` is how many images each identity has. Identities are dealt out to the folds so that
    each fold has enough pairs of one person; these are spread over its people as evenly as can
    be. Pairs of two people are uniform in the people. Raises as `pack_folder`.
    """
    if folds < 2 or pairs < 1 or pairs % (2 * folds):
        raise PairListError(
            f"{pairs} pairs in {folds} folds: expected two folds or more and a multiple of twice "
            f"their number, {2 * folds}, so that each has as many pairs of one person as of two"
        )
    half = pairs // folds // 2
    rng = random.Random(seed)
    starts = np.cumsum([0, *counts]).tolist()
    chosen: list[Choice] = []
    for fold, members in enumerate(_deal(counts, half, folds, rng)):
        same_at_most = sum(comb(counts[person], 2) for person in members)
        images = sum(counts[person] for person in members)
        two_at_most = comb(images, 2) - same_at_most
        if same_at_most < half or two_at_most < half:
            raise PairListError(
                f"{pairs} pairs in {folds} folds with people of their own need {half} pairs of "
                f"either kind in each; fold {fold} gets {len(members)} people with {images} images,"
                f" who make {same_at_most} pairs of one person and {two_at_most} of two: ask for "
                "fewer pairs or folds, or add images"
            )
        for person, quota in _quotas(counts, members, half, rng):
            for rank in rng.sample(range(comb(counts[person], 2)), quota):
                a, b = _unranked(rank)
                chosen.append((starts[person] + a, starts[person] + b, True))
        different = _different(counts, starts, members, half, two_at_most, rng)
        chosen += [(a, b, False) for a, b in different]
    return chosen


def _deal(counts: Sequence[int], half: int, folds: int, rng: random.Random) -> list[list[int]]:
    """Deal identities out to folds, those with most pairs first, to whom it lacks most."""
    people = list(range(len(counts)))
    rng.shuffle(people)
    people.sort(key=lambda person: -min(comb(counts[person], 2), half))
    members: list[list[int]] = [[] for _ in range(folds)]
    able = [0] * folds  # pairs of one person, as far as they are needed
    for person in people:
        fold = min(range(folds), key=lambda f: (able[f], len(members[f])))
        members[fold].append(person)
        able[fold] = min(half, able[fold] + comb(counts[person], 2))
    return members


def _quotas(
    counts: Sequence[int], members: list[int], half: int, rng: random.Random
) -> list[tuple[int, int]]:
    """Return how many pairs of each person to take, `half` in all and as even as can be."""
    left = half
    people = sorted(rng.sample(members, len(members)), key=lambda person: counts[person])
    quotas = []
    for number, person in enumerate(people):
        # Whoever has fewer than an even share gives all, and the share of the others grows.
        quota = min(comb(counts[person], 2), left // (len(people) - number))
        quotas.append((person, quota))
        left -= quota
    return quotas


def _unranked(rank: int) -> tuple[int, int]:
    """Return number `rank` of all pairs 0 <= a < b, in the order of b and then of a."""
    b = (1 + isqrt(1 + 8 * rank)) // 2
    return rank - comb(b, 2), b


def _different(
    counts: Sequence[int],
    starts: Sequence[int],
    members: list[int],
    half: int,
    at_most: int,
    rng: random.Random,
) -> list[tuple[int, int]]:
    """Return `half` different pairs of images of two people."""
    if 2 * half > at_most:  # drawing would meet the same ones again and again
        owners = [(starts[p] + i, p) for p in sorted(members) for i in range(counts[p])]
        every = [(a, b) for j, (b, q) in enumerate(owners) for a, p in owners[:j] if p != q]
        return rng.sample(every, half)
    found: dict[tuple[int, int], None] = {}
    while len(found) < half:
        a, b = sorted(starts[p] + rng.randrange(counts[p]) for p in rng.sample(members, 2))
        found[a, b] = None
    return list(found)
