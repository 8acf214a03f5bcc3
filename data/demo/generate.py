"""Makes the demo data: a training set of synthetic people and three verification sets.

The folder has the layout of the public face data sets, so everything that reads those reads it:
`train.rec`, `train.idx`, `property`, and `lfw.bin`, `cfp_fp.bin`, `agedb_30.bin`, named after
the benchmarks whose question they ask (same pose, frontal against profile, across ages).
"""

import ctypes
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import simplejpeg
import torch

from data.demo.conditions import Period, Pose, Shot
from data.demo.render import render_identity
from data.loading.cores import usable_cores
from data.pairs.bin_file import write_pair_file
from data.records.writer import write_face_records

GENERATOR_VERSION = 1
"""Goes up whenever the same parameters no longer give the same bytes."""

MANIFEST = "demo.json"
JPEG_QUALITY = 90
FOLDS = 10

_UNSEEN = 2**31
"""Number of the first person of the verification sets; training counts from 0 and stays below."""

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # options of glibc's mallopt, see malloc.h

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class PairKind:
    """How the two images of a pair are taken."""

    first: tuple[Pose, Period]
    second: tuple[Pose, Period]


VERIFICATION_SETS: dict[str, PairKind] = {
    "lfw": PairKind(("frontal", "adult"), ("frontal", "adult")),
    "cfp_fp": PairKind(("frontal", "adult"), ("profile", "adult")),
    "agedb_30": PairKind(("frontal", "young"), ("frontal", "old")),
}


@dataclass(frozen=True)
class _Person:
    """A unit of work: the images of one person."""

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
    progress: Progress | None = None,
) -> bool:
    """Make the demo data in `folder`, unless the same data is there already.

    The files appear all at once: they are written beside `folder` and moved when complete. Their
    bytes depend on the parameters, not on the number of processes.

    Args:
        folder: where; must not exist, be empty, or hold demo data with the same parameters.
        identities: number of people to train on.
        images: number of training images, spread evenly over the people.
        people_per_set: people in each verification set, none of whom is trained on or in another
            set; each gives one pair of the same and shares in one pair of different people. A
            multiple of 10 (there are ten folds), at least 20.
        seed: names the population and all its images.
        processes: worker processes; by default one for each CPU that this process may use. With 1
            the work is done in this process.
        progress: called with (images made, images to make) now and then.

    Returns:
        True if the data was made, False if it was there.

    Raises:
        ValueError: a number makes no sense, or the folder holds something else.
    """
    parameters = {
        "generator": GENERATOR_VERSION,
        "identities": identities,
        "images": images,
        "people_per_set": people_per_set,
        "seed": seed,
    }
    _check(identities, images, people_per_set)
    if _is_made(folder, parameters):
        return False
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        with _workers(processes) as run:
            _write(partial, parameters, run, progress)
        if folder.exists():
            folder.rmdir()  # empty, as was checked; fails if it no longer is
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return True


def _check(identities: int, images: int, people_per_set: int) -> None:
    if not 1 <= identities <= _UNSEEN:
        raise ValueError(f"identities is {identities}; expected 1 to {_UNSEEN}")
    if images < identities:
        raise ValueError(
            f"images is {images}, fewer than the {identities} identities; everyone needs one"
        )
    if people_per_set < 2 * FOLDS or people_per_set % FOLDS:
        raise ValueError(
            f"people_per_set is {people_per_set}; expected a multiple of {FOLDS}, at least "
            f"{2 * FOLDS}, so that each of the {FOLDS} folds has as many pairs of either kind"
        )


def _is_made(folder: Path, parameters: dict[str, int]) -> bool:
    """Say whether `folder` holds this very data; raise where it holds anything else."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise ValueError(
            f"{folder} holds something other than demo data (it has no {MANIFEST}); choose "
            "another folder"
        )
    found = _read_manifest(manifest)
    if found["parameters"] != parameters:
        raise ValueError(
            f"{folder} holds demo data made with {found['parameters']}, but {parameters} was "
            "asked for; choose another folder, or delete this one"
        )
    for name, size in found["files"].items():
        path = folder / name
        actual = path.stat().st_size if path.is_file() else None
        if actual != size:
            state = "is missing" if actual is None else f"has {actual} bytes"
            raise ValueError(
                f"{path} {state}, expected {size} bytes; delete {folder} and make the data anew"
            )
    return True


def _read_manifest(path: Path) -> dict[str, dict[str, int]]:
    """Return the manifest's `parameters` and `files` (name to bytes)."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {key: dict(found[key]) for key in ("parameters", "files")}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not the manifest of demo data ({error!r}); delete {path.parent} and make "
            "the data anew"
        ) from error


Run = Callable[[Sequence[_Person]], Iterator[list[bytes]]]


@contextmanager
def _workers(processes: int | None) -> Iterator[Run]:
    """Yield a function that photographs people in order, in this process or in several."""
    count = usable_cores() if processes is None else processes
    if count < 1:
        raise ValueError(f"processes is {count}; expected at least 1")
    if count == 1:
        with _one_thread():
            yield lambda people: map(_photograph, people)
        return
    # spawn: forking a process that has started threads (torch's, a process group's) can deadlock
    with ProcessPoolExecutor(count, get_context("spawn"), initializer=_start_worker) as pool:
        yield lambda people: pool.map(_photograph, people, chunksize=8)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute with one thread, as the workers do: the last bits of a sum depend on how it is cut.

    A last bit can be the pixel that a JPEG rounds the other way.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _start_worker() -> None:
    """Set a worker process up: one thread, and an allocator that keeps what is freed.

    By default glibc gives large freed blocks back to the system and every new image faults them
    in again, a fifth of the whole time.
    """
    torch.set_num_threads(1)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:  # musl has none
        for option, value in (
            (_TRIM_THRESHOLD, 2**30),
            (_TOP_PAD, 2**26),
            (_MMAP_THRESHOLD, 2**25),
        ):
            mallopt(option, value)


def _photograph(person: _Person) -> list[bytes]:
    """Return the JPEG files of one person's images, in the order of the shots."""
    images = render_identity(person.seed, person.identity, person.shots)
    return [simplejpeg.encode_jpeg(image, quality=JPEG_QUALITY) for image in images]


def _write(folder: Path, parameters: dict[str, int], run: Run, progress: Progress | None) -> None:
    seed, people = parameters["seed"], parameters["people_per_set"]
    total = parameters["images"] + 4 * people * len(VERIFICATION_SETS)
    done = 0

    def counted(groups: Iterator[list[bytes]]) -> Iterator[list[bytes]]:
        nonlocal done
        for group in groups:
            done += len(group)
            if progress is not None:
                progress(done, total)
            yield group

    training = training_people(seed, parameters["identities"], parameters["images"])
    made = counted(run(training))
    write_face_records(folder, ((i, image) for i, group in enumerate(made) for image in group))
    for number, (name, kind) in enumerate(VERIFICATION_SETS.items()):
        first = _UNSEEN + number * people
        groups = list(counted(run(verification_people(seed, first, people, kind))))
        encoded, same = arrange_pairs(groups)
        write_pair_file(folder / f"{name}.bin", encoded, same)
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    text = json.dumps({"parameters": parameters, "files": sizes}, indent=2)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def training_people(seed: int, identities: int, images: int) -> list[_Person]:
    """Return everyone to train on, with `images` spread as evenly as can be."""
    bounds = [images * i // identities for i in range(identities + 1)]
    return [
        _Person(seed, i, tuple(Shot(image) for image in range(bounds[i + 1] - bounds[i])))
        for i in range(identities)
    ]


def verification_people(seed: int, first: int, people: int, kind: PairKind) -> list[_Person]:
    """Return the people of a set, each with four shots: two of either kind."""
    (pose, period), (other_pose, other_period) = kind.first, kind.second
    shots = tuple(
        Shot(image, pose, period) if image % 2 == 0 else Shot(image, other_pose, other_period)
        for image in range(4)
    )
    return [_Person(seed, first + i, shots) for i in range(people)]


def arrange_pairs(groups: Sequence[Sequence[bytes]]) -> tuple[list[bytes], list[bool]]:
    """Return the images of all pairs, two a pair, and whether each pair is of one person.

    Each of the ten folds has as many pairs of one person as of two, first the former, as in LFW.
    A pair of one person is its shots 0 and 1; a pair of two is shot 2 of one and shot 3 of the
    next of the same fold, so that folds share no people.

    Args:
        groups: the four images of each person; a multiple of ten people.
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
