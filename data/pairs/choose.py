"""Chooses verification pairs from a folder of identities, fold by fold."""

import random
from collections.abc import Sequence
from math import comb, isqrt
from pathlib import Path

import numpy as np

from data.datasets.folders import FolderImages
from data.loading.decode import BadImage, decode_into
from data.pairs.bin_file import write_pair_file
from data.pairs.lists import PairListError, Written
from data.progress import ProgressCallback

Choice = tuple[int, int, bool]  # two images, and whether they show one person


def pack_folder(
    folder: Path,  # one sub-folder of images per identity
    output: Path,
    *,
    pairs: int,  # a multiple of twice the number of folds
    folds: int = 10,  # as the published protocol has
    seed: int = 0,
    progress: ProgressCallback | None = None,
) -> Written:
    """Choose pairs of images from a folder of identities and write them as a verification set.

    Every fold has as many pairs of one person as of two. No pair occurs twice and no person is in
    two folds. The same seed gives the same choice. An `output` that exists is replaced.

    Raises `PairListError` if there are too few identities or images, and for an image that cannot
    be used; `DatasetError` for a folder of another layout.
    """
    dataset = FolderImages(folder)
    counts = np.bincount(dataset.labels).tolist()
    try:
        chosen = choose_pairs(counts, pairs=pairs, folds=folds, seed=seed)
    except PairListError as error:
        raise PairListError(f"{folder}: {error}") from None
    images = sorted({image for a, b, _ in chosen for image in (a, b)})
    contents: dict[int, bytes] = {}
    for number, image in enumerate(images, start=1):
        contents[image] = bytes(dataset.encoded(image))
        try:
            decode_into(np.empty((112, 112, 3), np.uint8), contents[image])
        except BadImage as error:
            raise PairListError(f"{dataset.describe(image)}: {error}; remove it") from error
        if progress is not None:
            progress(number, len(images))
    write_pair_file(
        output,
        [contents[image] for a, b, _ in chosen for image in (a, b)],
        [same for _, _, same in chosen],
    )
    return Written(len(chosen), len(chosen) // 2, len(images), ())


def choose_pairs(counts: Sequence[int], *, pairs: int, folds: int, seed: int) -> list[Choice]:
    """Return pairs in file order; images are numbered consecutively through the identities.

    `counts` is the number of images of each identity. Identities are assigned to folds so that each
    fold has enough pairs of one person, and these are spread over its people as evenly as possible.
    Pairs of two people are uniform in the people. Raises `PairListError` like `pack_folder`.
    """
    if folds < 2 or pairs < 1 or pairs % (2 * folds):
        raise PairListError(
            f"{pairs} pairs in {folds} folds: expected at least two folds, and a multiple of twice "
            f"their number, {2 * folds}, so that each has as many pairs of one person as of two"
        )
    half = pairs // folds // 2
    rng = random.Random(seed)
    starts = np.cumsum([0, *counts]).tolist()
    chosen: list[Choice] = []
    for fold, members in enumerate(_assign(counts, half, folds, rng)):
        same_at_most = sum(comb(counts[person], 2) for person in members)
        images = sum(counts[person] for person in members)
        two_at_most = comb(images, 2) - same_at_most
        if same_at_most < half or two_at_most < half:
            raise PairListError(
                f"{pairs} pairs in {folds} folds without common people need {half} pairs of each "
                f"kind per fold; fold {fold} has {len(members)} people with {images} images, which "
                f"make {same_at_most} pairs of one person and {two_at_most} of two: ask for fewer "
                "pairs or folds, or add images"
            )
        for person, quota in _quotas(counts, members, half, rng):
            for rank in rng.sample(range(comb(counts[person], 2)), quota):
                a, b = _unranked(rank)
                chosen.append((starts[person] + a, starts[person] + b, True))
        different = _different(counts, starts, members, half, two_at_most, rng)
        chosen += [(a, b, False) for a, b in different]
    return chosen


def _assign(counts: Sequence[int], half: int, folds: int, rng: random.Random) -> list[list[int]]:
    """Assign identities to folds: those with most pairs first, each to the fold that needs most."""
    people = list(range(len(counts)))
    rng.shuffle(people)
    people.sort(key=lambda person: -min(comb(counts[person], 2), half))
    members: list[list[int]] = [[] for _ in range(folds)]
    possible = [0] * folds  # pairs of one person, up to the number that is needed
    for person in people:
        fold = min(range(folds), key=lambda f: (possible[f], len(members[f])))
        members[fold].append(person)
        possible[fold] = min(half, possible[fold] + comb(counts[person], 2))
    return members


def _quotas(
    counts: Sequence[int], members: list[int], half: int, rng: random.Random
) -> list[tuple[int, int]]:
    """Return the number of pairs of each person, `half` in total and as even as possible."""
    left = half
    people = sorted(rng.sample(members, len(members)), key=lambda person: counts[person])
    quotas = []
    for number, person in enumerate(people):
        # People with too few images for an equal part give all their pairs, the others more.
        quota = min(comb(counts[person], 2), left // (len(people) - number))
        quotas.append((person, quota))
        left -= quota
    return quotas


def _unranked(rank: int) -> tuple[int, int]:
    """Return pair number `rank` of all pairs 0 <= a < b, ordered by b and then by a."""
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
    """Return `half` different pairs of images of two people, of the `at_most` that exist."""
    if 2 * half > at_most:  # drawing at random would find too many repeats
        owners = [(starts[p] + i, p) for p in sorted(members) for i in range(counts[p])]
        every = [(a, b) for j, (b, q) in enumerate(owners) for a, p in owners[:j] if p != q]
        return rng.sample(every, half)
    found: dict[tuple[int, int], None] = {}
    while len(found) < half:
        a, b = sorted(starts[p] + rng.randrange(counts[p]) for p in rng.sample(members, 2))
        found[a, b] = None
    return list(found)
