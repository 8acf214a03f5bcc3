"""Two sets of the demo's people with faults in them, and what is wrong with each image.

The first set is the demo's training set and people that no network has seen, some of whom the
verification sets show too. The second has other unseen people, and some of the first set.
"""

from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Final

import numpy as np
import simplejpeg
from PIL import Image

from data.datasets.dataset import open_dataset
from data.demo.conditions import Shot
from data.demo.generate import (
    FIRST_UNSEEN,
    JPEG_QUALITY,
    VERIFICATION_SETS,
    one_thread,
    start_worker,
)
from data.demo.render import render_identity
from data.loading.tuning import usable_cores
from data.loading.workers import Workers
from data.progress import progress_bar
from data.records.writer import write_face_records

PEOPLE_PER_SET: Final = 300  # of the demo's verification sets
IMAGES: Final = 10  # of each person who is added
ADDED: Final = FIRST_UNSEEN + 1_000_000  # number of the first of them
LATER_SHOTS: Final = 1000  # the verification sets have the shots 0 to 3
SWAPPED: Final = 0.02  # of all images


@dataclass(frozen=True)
class Amounts:
    """How many of each fault; a fifth of those of identities are among unseen people."""

    unseen: int = 300  # people whom the network does not know, in the first set
    split: int = 50  # identities that become two labels
    merged: int = 50  # labels that get the images of two identities
    leaked: int = 20  # people of each verification set, with other images of them
    within: int = 100  # images twice in one identity, the second encoded anew
    across: int = 100  # the same in another identity
    strangers: int = 100  # images of people who have no label
    second: int = 150  # unseen people of the second set
    shared: int = 50  # people of the second set who are in the first


@dataclass
class Photo:
    """An image, where it is, and what is true of it."""

    person: int  # who it shows
    label: int  # in its set
    image: bytes
    copied: bool = False  # and encoded anew; the other one is of the same `source`
    source: int = -1  # number of the photo that was taken
    stranger: bool = False
    swapped: bool = False


Photos = list[Photo]
Pairs = list[tuple[int, int]]


@dataclass
class Planted:
    """What is in the two sets; labels of the first, or of the first and the second."""

    trained: int  # people whom the network knows: those below
    first: Photos
    second: Photos = field(default_factory=list)
    split: Pairs = field(default_factory=list)  # two labels of a person
    merged: list[int] = field(default_factory=list)  # labels of two people
    leaked: dict[str, list[int]] = field(default_factory=dict)  # by verification set
    shared: Pairs = field(default_factory=list)


def plant(demo: Path, seed: int, amounts: Amounts | None = None) -> Planted:
    """Return the sets made of the demo's data in `demo`, by a seed of where the faults are."""
    amounts = amounts or Amounts()
    random = np.random.default_rng(seed)
    base = open_dataset(demo)
    labels = base.labels.tolist()
    first = [Photo(label, label, bytes(base.encoded(i))) for i, label in enumerate(labels)]
    planted = Planted(base.num_classes, first)
    added = [(ADDED + i, base.num_classes + i) for i in range(amounts.unseen)]
    for number, name in enumerate(VERIFICATION_SETS):
        people = random.choice(PEOPLE_PER_SET, amounts.leaked, replace=False)
        numbers = (FIRST_UNSEEN + number * PEOPLE_PER_SET + people).tolist()
        planted.leaked[name] = [base.num_classes + len(added) + i for i in range(len(numbers))]
        added += zip(numbers, planted.leaked[name], strict=True)
    others = [(ADDED + 10_000 + i, i) for i in range(amounts.second)]
    strangers = [ADDED + 20_000 + i for i in range(amounts.strangers)]
    taken = photographs([*(person for person, _ in added + others), *strangers])
    first += [Photo(person, label, image) for person, label in added for image in taken[person]]
    planted.second += [Photo(p, label, image) for p, label in others for image in taken[p]]
    _move(planted, amounts, random)
    names = sorted({photo.label for photo in first})
    for person in strangers:
        label = int(random.choice(names))
        first.append(Photo(person, label, taken[person][0], stranger=True))
    for number, photo in enumerate(first + planted.second):
        photo.source = number
    _swap(first, names, random)
    _copy(first, names, amounts, random)
    _number(planted)
    return planted


def photographs(people: list[int]) -> dict[int, list[bytes]]:
    """Return `IMAGES` photos of each person, encoded."""
    with (
        progress_bar("people", "person") as progress,
        one_thread(),
        Workers(usable_cores(), processes=True, start=start_worker) as workers,
    ):
        found = {}
        for person, images in zip(people, workers.in_order(_photographs, people), strict=True):
            found[person] = images
            progress(len(found), len(people))
    return found


def _photographs(person: int) -> list[bytes]:
    shots = [Shot(LATER_SHOTS + number) for number in range(IMAGES)]
    return [simplejpeg.encode_jpeg(i, JPEG_QUALITY) for i in render_identity(0, person, shots)]


def _move(planted: Planted, amounts: Amounts, random: np.random.Generator) -> None:
    """Share people with the second set, and split and merge identities of the first."""
    first, trained = planted.first, planted.trained
    of_label: dict[int, Photos] = {}
    for photo in first:
        of_label.setdefault(photo.label, []).append(photo)
    known = random.permutation(trained).tolist()
    unknown = (trained + random.permutation(amounts.unseen)).tolist()

    def draw(count: int) -> list[int]:
        """Return labels that have no fault yet, a fifth of them of people who are not known."""
        few = count // 5
        return [unknown.pop() for _ in range(few)] + [known.pop() for _ in range(count - few)]

    for number, label in enumerate(draw(amounts.shared)):
        kept = of_label[label]
        for photo in kept[len(kept) // 2 :]:
            first.remove(photo)
            photo.label = amounts.second + number
            planted.second.append(photo)
        planted.shared.append((label, amounts.second + number))
    new = len(of_label)
    for number, label in enumerate(draw(amounts.split)):
        for photo in of_label[label][len(of_label[label]) // 2 :]:
            photo.label = new + number
        planted.split.append((label, new + number))
    for label, other in zip(draw(amounts.merged), draw(amounts.merged), strict=True):
        for photo in of_label[other]:
            photo.label = label
        planted.merged.append(label)


def _swap(photos: Photos, names: list[int], random: np.random.Generator) -> None:
    honest = [photo for photo in photos if not photo.stranger]
    for number in random.choice(len(honest), round(SWAPPED * len(photos)), replace=False):
        photo = honest[number]
        photo.swapped = True
        photo.label = _other(photo.label, names, random)


def _copy(photos: Photos, names: list[int], amounts: Amounts, random: np.random.Generator) -> None:
    honest = [photo for photo in photos if not (photo.stranger or photo.swapped)]
    count = amounts.within + amounts.across
    for turn, number in enumerate(random.choice(len(honest), count, replace=False)):
        photo = honest[number]
        moved = turn >= amounts.within
        label = _other(photo.label, names, random) if moved else photo.label
        image = encode_anew(photo.image)
        photos.append(Photo(photo.person, label, image, True, photo.source, swapped=moved))


def _other(label: int, names: list[int], random: np.random.Generator) -> int:
    while (found := int(random.choice(names))) == label:
        pass
    return found


def encode_anew(image: bytes) -> bytes:
    """Return an image scaled down and up again, as a JPEG of less quality."""
    with Image.open(BytesIO(image)) as opened:
        pixels = opened.convert("RGB")
    small = pixels.resize((96, 96), Image.Resampling.BILINEAR)
    stream = BytesIO()
    small.resize(pixels.size, Image.Resampling.BICUBIC).save(stream, "JPEG", quality=70)
    return stream.getvalue()


def _number(planted: Planted) -> None:
    """Number the labels of both sets without gaps, and sort the photos by them."""
    rows = []
    for photos in (planted.first, planted.second):
        new = {label: row for row, label in enumerate(sorted({p.label for p in photos}))}
        for photo in photos:
            photo.label = new[photo.label]
        photos.sort(key=lambda photo: photo.label)
        rows.append(new)
    first, second = rows
    planted.split = [(first[a], first[b]) for a, b in planted.split]
    planted.merged = [first[label] for label in planted.merged]
    planted.shared = [(first[a], second[b]) for a, b in planted.shared]
    for name, labels in planted.leaked.items():
        planted.leaked[name] = [first[label] for label in labels]


def write(photos: Photos, folder: Path) -> None:
    """Write a set as records."""
    write_face_records(folder, ((photo.label, photo.image) for photo in photos))
