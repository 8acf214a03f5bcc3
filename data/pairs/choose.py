"""Chooses verification pairs from a folder of identities, fold by fold.

Verification cuts a set into ten folds and judges each with a threshold from the other nine. That is
fair if no person is in two folds, which takes twenty people. Of fewer people, five or two groups
are made, each of which is cut into two or five folds.
"""

import random
from collections.abc import Sequence
from math import comb, isqrt
from pathlib import Path
from typing import Final

import numpy as np

from data.datasets.folders import FolderImages
from data.loading.decode import BadImage, decode_into
from data.pairs.bin_file import FOLDS, write_pair_file
from data.pairs.lists import PairListError, Written
from data.progress import ProgressCallback

GROUPS: Final = (10, 5, 2)  # numbers of groups that ten folds can be cut from
USUAL_PAIRS: Final = 6000  # as LFW has
_STEP: Final = 2 * FOLDS  # pairs: one of each kind in every fold

Choice = tuple[int, int, bool]  # two images, and whether they show one person


def pack_folder(
    folder: Path,  # one sub-folder of images per identity
    output: Path,
    *,
    pairs: int | None = None,  # a multiple of 20; by default as many as there are, up to 6,000
    folds: int | None = None,  # without common people: one of `GROUPS`; by default the most
    seed: int = 0,
    progress: ProgressCallback | None = None,
) -> Written:
    """Choose pairs of images from a folder of identities and write them as a verification set.

    Each of the ten folds that verification cuts has as many pairs of one person as of two. No pair
    occurs twice, and no person is in two of `folds`. The same seed gives the same choice. An
    `output` that exists is replaced.

    Raises `PairListError` if there are too few identities or images, with what is possible, and for
    an image that cannot be used; `DatasetError` for a folder of another layout.
    """
    dataset = FolderImages(folder)
    counts = np.bincount(dataset.labels).tolist()
    try:
        number, groups, remarks = plan_pairs(counts, pairs=pairs, folds=folds, seed=seed)
        chosen = choose_pairs(counts, pairs=number, folds=groups, seed=seed)
    except PairListError as error:
        raise PairListError(f"{folder}: {error}") from None
    images = sorted({image for a, b, _ in chosen for image in (a, b)})
    contents: dict[int, bytes] = {}
    for done, image in enumerate(images, start=1):
        contents[image] = bytes(dataset.encoded(image))
        try:
            decode_into(np.empty((112, 112, 3), np.uint8), contents[image])
        except BadImage as error:
            raise PairListError(f"{dataset.describe(image)}: {error}; remove it") from error
        if progress is not None:
            progress(done, len(images))
    write_pair_file(
        output,
        [contents[image] for a, b, _ in chosen for image in (a, b)],
        [same for _, _, same in chosen],
    )
    return Written(len(chosen), len(chosen) // 2, len(images), tuple(remarks))


def plan_pairs(
    counts: Sequence[int], *, pairs: int | None, folds: int | None, seed: int
) -> tuple[int, int, list[str]]:
    """Return how many pairs and folds to make of identities with these numbers of images.

    With remarks, where that is less than the usual. None stands for the most that is possible.
    Raises `PairListError` like `pack_folder`.
    """
    if (pairs is not None and (pairs < 1 or pairs % _STEP)) or folds not in (None, *GROUPS):
        raise PairListError(
            f"{USUAL_PAIRS if pairs is None else pairs} pairs in "
            f"{FOLDS if folds is None else folds} folds: expected a multiple of {_STEP} pairs "
            f"(--pairs), so that each of the {FOLDS} folds that verification cuts has as many of "
            f"one person as of two, and 10, 5 or 2 folds without common people (--folds)"
        )
    wanted = USUAL_PAIRS if pairs is None else pairs
    groups, most = 0, 0
    for groups in GROUPS if folds is None else (folds,):
        if most := _most_pairs(counts, groups, wanted, seed):
            break
    people = f"{len(counts)} people with {sum(counts)} images"
    if most < (_STEP if pairs is None else pairs):
        every = [(_most_pairs(counts, number, wanted, seed), number) for number in GROUPS]
        possible = [
            f"--folds {number} --pairs {n}"
            for place, (n, number) in enumerate(every)
            if n > max((n for n, _ in every[:place]), default=0)  # fewer folds only for more pairs
        ]
        raise PairListError(
            f"{people} make {most} pairs in {groups} folds without common people: expected "
            f"{_STEP if pairs is None else pairs} or more; "
            + (f"ask for {' or '.join(possible)}, or " if possible else "")
            + "add people or images: every fold needs two people, one of them with two images"
        )
    remarks = []
    if most < wanted:
        remarks.append(f"{people} make {most} pairs; the usual sets have {USUAL_PAIRS}")
    if groups < FOLDS:
        remarks.append(
            f"each person is in {FOLDS // groups} of the {FOLDS} folds that verification cuts, so "
            "thresholds are chosen with the people that they are tested on, and accuracies are "
            f"slightly too high; {2 * FOLDS} people with two images each are enough to avoid that"
        )
    return most, groups, remarks


def _most_pairs(counts: Sequence[int], folds: int, wanted: int, seed: int) -> int:
    """Return how many pairs can be made, up to `wanted`: a multiple of `_STEP`, 0 if none."""

    def fit(steps: int) -> bool:
        half = steps * _STEP // folds // 2
        groups = _assign(counts, half, folds, random.Random(seed))
        return all(min(_possible(counts, members)) >= half for members in groups)

    low, high = 0, wanted // _STEP
    if fit(high):
        return high * _STEP
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fit(middle) else (low, middle)
    return low * _STEP


def _possible(counts: Sequence[int], members: Sequence[int]) -> tuple[int, int]:
    """Return how many pairs of one person, and of two, the images of these people make."""
    same = sum(comb(counts[person], 2) for person in members)
    return same, comb(sum(counts[person] for person in members), 2) - same


def choose_pairs(counts: Sequence[int], *, pairs: int, folds: int, seed: int) -> list[Choice]:
    """Return pairs in file order; images are numbered consecutively through the identities.

    `counts` is the number of images of each identity. Identities are assigned to folds so that each
    fold has enough pairs of one person, and these are spread over its people as evenly as possible.
    Pairs of two people are uniform in the people. Both kinds alternate, so that a fold that is cut
    again has as many of each. Raises `PairListError` like `pack_folder`.
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
        same_at_most, two_at_most = _possible(counts, members)
        if same_at_most < half or two_at_most < half:
            images = sum(counts[person] for person in members)
            raise PairListError(
                f"{pairs} pairs in {folds} folds without common people need {half} pairs of each "
                f"kind per fold; fold {fold} has {len(members)} people with {images} images, which "
                f"make {same_at_most} pairs of one person and {two_at_most} of two: ask for fewer "
                "pairs or folds, or add images"
            )
        same = [
            (starts[person] + a, starts[person] + b)
            for person, quota in _quotas(counts, members, half, rng)
            for a, b in map(_unranked, rng.sample(range(comb(counts[person], 2)), quota))
        ]
        different = _different(counts, starts, members, half, two_at_most, rng)
        for of_one, of_two in zip(same, different, strict=True):
            chosen += [(*of_one, True), (*of_two, False)]
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
