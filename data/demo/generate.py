"""Makes the demo data: a training set of synthetic people and three verification sets.

The folder has the layout of the public face data sets: `train.rec`, `train.idx`, `property`, and
`lfw.bin`, `cfp_fp.bin`, `agedb_30.bin`, named after the benchmarks that compare the same things
(the same pose, frontal with profile, across ages).
"""

import ctypes
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import simplejpeg
import torch

from data.demo.conditions import Period, Pose, Shot
from data.demo.render import render_identity
from data.files import is_free
from data.loading.tuning import usable_cores
from data.loading.workers import Workers
from data.pairs.bin_file import write_pair_file
from data.progress import ProgressCallback, progress_counter
from data.records.writer import write_face_records

GENERATOR_VERSION = 1
"""Increased whenever the same parameters no longer give the same bytes."""

MANIFEST = "demo.json"
JPEG_QUALITY = 90
FOLDS = 10

FIRST_UNSEEN = 2**31
"""Number of the first person of the verification sets; those of training count from 0."""

# Options of glibc's mallopt (malloc.h): trim threshold, top pad and mmap threshold.
_MALLOC_OPTIONS = {-1: 2**30, -2: 2**26, -3: 2**25}


def _four_shots(*kinds: tuple[Pose, Period]) -> tuple[Shot, ...]:
    return tuple(Shot(image, *kinds[image % 2]) for image in range(4))


VERIFICATION_SETS = {
    "lfw": _four_shots(("frontal", "adult"), ("frontal", "adult")),
    "cfp_fp": _four_shots(("frontal", "adult"), ("profile", "adult")),
    "agedb_30": _four_shots(("frontal", "young"), ("frontal", "old")),
}
"""The shots of each person of a set; a pair is one with an even and one with an odd number."""


class _Person(NamedTuple):
    """A unit of work: the images of one person, as `render_identity` takes them."""

    seed: int
    identity: int
    shots: tuple[Shot, ...]


def make_demo_data(
    folder: Path,
    *,
    identities: int = 2000,
    images: int = 20_000,
    people_per_set: int = 300,
    seed: int = 0,
    processes: int | None = None,
    progress: ProgressCallback | None = None,
) -> bool:
    """Make the demo data in `folder`, unless the same data is there already.

    The files appear all at once: they are written to a folder next to `folder`, which is renamed
    when complete. Their bytes depend on the parameters, not on the number of processes: by default
    one per core that this process may use; with 1 the work is done in this process.

    `images` are spread evenly over the `identities` to train on. None of the `people_per_set`, a
    multiple of 10 (there are ten folds) and at least 20, is in training or in another set; each
    gives one pair of the same person and half of two pairs of different people.

    Returns whether the data was made, False if it was there. Raises `ValueError` for a number out
    of range, and for a folder that holds something else.
    """
    parameters = {
        "generator": GENERATOR_VERSION,
        "identities": identities,
        "images": images,
        "people_per_set": people_per_set,
        "seed": seed,
    }
    count = usable_cores() if processes is None else processes
    _check(identities, images, people_per_set, count)
    if _is_made(folder, parameters):
        return False
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(".partial", f".{folder.name}.", folder.parent) as parent:
        partial = Path(parent, folder.name)
        partial.mkdir()
        with one_thread(), Workers(count, processes=True, start=start_worker) as workers:
            _write(partial, parameters, workers, progress)
        if folder.exists():
            folder.rmdir()  # empty, as was checked; fails if it no longer is
        partial.replace(folder)
    return True


def _check(identities: int, images: int, people_per_set: int, processes: int) -> None:
    if not 1 <= identities <= FIRST_UNSEEN:
        raise ValueError(f"identities is {identities}: expected 1 to {FIRST_UNSEEN}")
    if images < identities:
        raise ValueError(
            f"images is {images}: expected at least one for each of {identities} people"
        )
    if people_per_set < 2 * FOLDS or people_per_set % FOLDS:
        raise ValueError(
            f"people_per_set is {people_per_set}: expected a multiple of {FOLDS}, at least "
            f"{2 * FOLDS}, so that each of the {FOLDS} folds has as many pairs of either kind"
        )
    if processes < 1:
        raise ValueError(f"processes is {processes}: expected at least 1")


def _is_made(folder: Path, parameters: dict[str, int]) -> bool:
    """Return whether `folder` holds this data already; raise `ValueError` for anything else."""
    if is_free(folder):
        return False
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise ValueError(
            f"{folder} holds something other than demo data (it has no {MANIFEST}): choose "
            "another folder"
        )
    try:
        found = json.loads(manifest.read_text(encoding="utf-8"))
        known, files = dict(found["parameters"]), dict(found["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{manifest} is not the manifest of demo data ({error!r}): delete {folder} and make "
            "the data again"
        ) from error
    if known != parameters:
        raise ValueError(
            f"{folder} holds demo data made with {known}, not with {parameters}: "
            "choose another folder, or delete this one"
        )
    for name, size in files.items():
        path = folder / name
        actual = path.stat().st_size if path.is_file() else None
        if actual != size:
            state = "is missing" if actual is None else f"has {actual} bytes"
            raise ValueError(
                f"{path} {state}: expected {size} bytes; delete {folder} and make the data again"
            )
    return True


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread, as worker processes do.

    The last bits of a sum depend on the number of threads, and a JPEG may round by the last bit.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def start_worker() -> None:
    """Set a worker process to one thread, and its allocator to keep freed memory.

    By default glibc returns large freed blocks to the system, and every new image faults them in
    again, which takes a fifth of the whole time.
    """
    torch.set_num_threads(1)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:  # musl has none
        for option, value in _MALLOC_OPTIONS.items():
            mallopt(option, value)


def _photograph(person: _Person) -> list[bytes]:
    """Return the JPEG files of one person's images, in the order of the shots."""
    images = render_identity(*person)
    return [simplejpeg.encode_jpeg(image, quality=JPEG_QUALITY) for image in images]


def _write(
    folder: Path, parameters: dict[str, int], workers: Workers, progress: ProgressCallback | None
) -> None:
    seed, people = parameters["seed"], parameters["people_per_set"]
    total = parameters["images"] + 4 * people * len(VERIFICATION_SETS)
    count = progress_counter(progress, total)

    def photographs(people: Sequence[_Person]) -> Iterator[list[bytes]]:
        for group in workers.in_order(_photograph, people):
            count(len(group))
            yield group

    training = photographs(training_people(seed, parameters["identities"], parameters["images"]))
    write_face_records(folder, ((i, image) for i, group in enumerate(training) for image in group))
    for number, (name, shots) in enumerate(VERIFICATION_SETS.items()):
        first = FIRST_UNSEEN + number * people
        groups = list(photographs(verification_people(seed, first, people, shots)))
        encoded, same = arrange_pairs(groups)
        write_pair_file(folder / f"{name}.bin", encoded, same)
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    text = json.dumps({"parameters": parameters, "files": sizes}, indent=2)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def training_people(seed: int, identities: int, images: int) -> list[_Person]:
    """Return the people to train on, with `images` spread evenly over them."""
    bounds = [images * i // identities for i in range(identities + 1)]
    return [
        _Person(seed, i, tuple(Shot(image) for image in range(bounds[i + 1] - bounds[i])))
        for i in range(identities)
    ]


def verification_people(
    seed: int, first: int, people: int, shots: tuple[Shot, ...]
) -> list[_Person]:
    """Return the people of a set, numbered from `first`, all with the same shots."""
    return [_Person(seed, first + i, shots) for i in range(people)]


def arrange_pairs(groups: Sequence[Sequence[bytes]]) -> tuple[list[bytes], list[bool]]:
    """Return the images of all pairs, two per pair, and whether each pair shows one person.

    Each of the ten folds has as many pairs of one person as of two people, first the former, as in
    LFW. A pair of one person is their shots 0 and 1; a pair of two is shot 2 of one and shot 3 of
    the next person in the fold, so that folds share no people. `groups` are the four images of each
    person, of a multiple of ten people.
    """
    size = len(groups) // FOLDS
    images: list[bytes] = []
    same: list[bool] = []
    for fold in range(FOLDS):
        members = groups[fold * size : (fold + 1) * size]
        for member in members:
            images += member[:2]
        for i, member in enumerate(members):
            images += (member[2], members[(i + 1) % size][3])
        same += [True] * size + [False] * size
    return images, same
