"""Verification sets in the `.bin` format: pairs of encoded images, and whether they match.

Shape legend: p pairs, 2p images.

The file is a pickle of `(images, same)`, like the published LFW, CFP-FP and AgeDB-30 files:
images 2k and 2k+1 form pair k, and `same[k]` says whether they show one person.
"""

import mmap
import os
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from data.files import atomic_write, refuse_lfs_pointer
from data.pairs.safe_pickle import MAX_OPCODES, UnsafePickleError, loads, value_of

FOLDS: Final = 10  # that verification cuts a set into, in file order


class PairFileError(ValueError):
    """A verification set cannot be used; the message has the file, the fault and the fix."""


@dataclass(frozen=True, eq=False)
class PairFile:
    """A verification set, its images still encoded."""

    path: Path
    images: list[memoryview]  # 2p encoded images (JPEG or PNG), views of the mapped file
    same: NDArray[np.bool_]  # [p], whether the two images of a pair show one person

    def __len__(self) -> int:
        """Return the number of images, 2p."""
        return len(self.images)

    def encoded(self, index: int) -> memoryview:
        """Return the encoded image at `index`, `0 <= index < 2p`."""
        return self.images[index]

    def describe(self, index: int) -> str:
        """Return where the image at `index` comes from, for messages."""
        return f"{self.path}, image {index} (of pair {index // 2})"


def read_pair_file(path: Path) -> PairFile:
    """Read a verification set without running any code that the file may contain.

    Pickles of Python 2 and 3 and of any protocol are read. Images may be byte strings or uint8
    arrays with a single row; `same` may be a list or an array of booleans or of 0 and 1. The file
    is mapped, not copied.

    Raises `PairFileError` (a `ValueError`) when the file is absent, is not a pickle of plain
    data, asks for code to be run, or does not hold twice as many images as pairs.
    """
    data = _map(path)
    try:
        content = loads(data)
        if not isinstance(content, tuple | list) or len(content) != 2:
            raise PairFileError(f"holds {_kind(content)} in place of (images, same)")
        images = [_image(i, value_of(item)) for i, item in enumerate(_items("images", content[0]))]
        same = [_same(k, value_of(item)) for k, item in enumerate(_items("same", content[1]))]
        if len(images) != 2 * len(same) or not images:
            raise PairFileError(f"{len(images)} images for {len(same)} pairs")
    except (UnsafePickleError, PairFileError) as error:
        raise PairFileError(
            f"{path} is not a verification set: {error}. Expected a pickle of (images, same) that "
            "consists of lists, bytes, booleans and NumPy arrays, with two images per pair and at "
            "least one pair; get the file from a source that you trust, or make it with "
            "scripts/make_pairs.py"
        ) from None
    return PairFile(path, images, np.array(same, dtype=np.bool_))


def write_pair_file(
    path: Path, images: Sequence[bytes | memoryview], same: Sequence[bool] | NDArray[np.bool_]
) -> None:
    """Write a verification set that this and other systems read, in place of a file at `path`.

    `images` are 2p encoded images, two per pair; `same` has p booleans. The published protocol
    divides the pairs into ten folds in file order, so both kinds should be spread over the file:
    `balanced_order` gives such an order. Images with the same bytes are stored once.

    Raises `PairFileError` when the counts do not match.
    """
    if len(images) != 2 * len(same) or len(same) == 0:
        raise PairFileError(
            f"{path}: {len(images)} images for {len(same)} pairs, expected {2 * len(same)} and at "
            "least one pair: images 2k and 2k+1 form pair k"
        )
    once: dict[bytes, bytes] = {}  # pickle stores an object once, not one per occurrence
    content = (
        [once.setdefault(image, image) for image in map(bytes, images)],
        [bool(value) for value in same],
    )
    with atomic_write(path) as file:
        pickle.dump(content, file, protocol=4)


def balanced_order(same: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return an order of the pairs, int64 [p], in which both kinds are spread evenly.

    Each kind keeps its own order. Any chunk of the new order, such as one of ten folds, holds both
    kinds in their overall proportion, give or take one pair.
    """
    positions = np.empty(len(same), dtype=np.float64)
    for kind in (False, True):
        members = np.flatnonzero(same == kind)
        positions[members] = (np.arange(len(members)) + 0.5) / max(len(members), 1)
    return np.argsort(positions, kind="stable").astype(np.int64)


def _map(path: Path) -> mmap.mmap:
    """Return the file's contents as a read-only mapping, which lives as long as its views."""
    if not os.path.isfile(path):
        raise PairFileError(f"{path}: no such file; expected a verification set (.bin)")
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise PairFileError(f"{path}: the file is empty; copy or download it again")
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    refuse_lfs_pointer(path, data[:512], PairFileError)
    return data


def _items(name: str, value: object) -> list[object]:
    """Return a list, tuple or one-dimensional array as a list."""
    value = value_of(value)
    if isinstance(value, np.ndarray):
        # A small file can hold an array of shape (2**40, 0), but no memory a list of its rows.
        if value.ndim != 1 or value.size > MAX_OPCODES:
            raise PairFileError(
                f"{name} is an array of shape {value.shape} in place of one dimension and at most "
                f"{MAX_OPCODES} items"
            )
        value = value.tolist()
    if not isinstance(value, list | tuple):
        raise PairFileError(f"{name} is {_kind(value)} in place of a list")
    return list(value)


def _image(i: int, value: object) -> memoryview:
    if (
        isinstance(value, np.ndarray)
        and value.dtype == np.uint8
        and value.size == max(value.shape, default=0)
    ):
        value = value.reshape(-1).data
    if not isinstance(value, bytes | memoryview):
        raise PairFileError(f"image {i} is {_kind(value)} in place of an encoded image")
    return memoryview(value)


def _same(k: int, value: object) -> bool:
    if not isinstance(value, int | float) or value not in (0, 1):
        raise PairFileError(f"the label of pair {k} is {_kind(value)} in place of true or false")
    return bool(value)


def _kind(value: object) -> str:
    """Return a short description of an unpickled value for messages."""
    match value:
        case list() | tuple():
            return f"a {type(value).__name__} of {len(value)} items"
        case bytes() | memoryview():
            return f"a byte string of {len(value)} bytes"
        case np.ndarray():
            return f"an array of shape {value.shape}, {value.dtype}"
        case str() | float() | None:
            return repr(value)[:40]
        case int() if value.bit_length() <= 64:  # Python refuses to print very large numbers
            return repr(value)
    return f"a value of type {type(value).__name__}"
