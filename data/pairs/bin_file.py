"""Verification sets in the `.bin` format: pairs of encoded images, and whether each pair is same.

Shape legend: p pairs, 2p images.

The file is a pickle of `(images, same)`, as the published LFW, CFP-FP and AgeDB-30 files are:
image 2k and image 2k+1 form pair k, and `same[k]` says whether they show one person.
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
from data.pairs.pickle_values import PickledArray, UnsafePickleError
from data.pairs.safe_pickle import MAX_OPCODES, loads

_REWRITE: Final = "write such files with data.pairs.bin_file.write_pair_file"


class PairFileError(ValueError):
    """A verification set cannot be used; the message names the file, the fault and the mend."""


@dataclass(frozen=True, eq=False)
class PairFile:
    """A verification set, its images still encoded.

    Attributes:
        path: the file.
        images: 2p encoded images (JPEG or PNG), as views of the mapped file.
        same: bool [p], whether the two images of a pair show one person.
    """

    path: Path
    images: list[memoryview]
    same: NDArray[np.bool_]

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
    """Read a verification set without running anything that the file may contain.

    Pickles of Python 2 and 3 and of any protocol are read; images may be byte strings or
    one-dimensional uint8 arrays, `same` a list or an array of booleans or of 0 and 1. The file is
    mapped, not copied.

    Raises `PairFileError` (a `ValueError`) when the file is absent, is not a pickle of plain
    data, asks for code to be run, or does not hold twice as many images as pairs.
    """
    try:
        content = loads(_map(path))
    except UnsafePickleError as error:
        raise PairFileError(
            f"{path}: not a verification set that is safe to read: {error}. Expected a pickle of "
            f"(images, same) made of lists, bytes, booleans and NumPy arrays only; take the file "
            f"from a source you trust, or {_REWRITE}"
        ) from None
    if not isinstance(content, tuple | list) or len(content) != 2:
        raise PairFileError(
            f"{path}: holds {_kind(content)}, expected the two items (images, same); {_REWRITE}"
        )
    images = [_image(path, i, item) for i, item in enumerate(_items(path, "images", content[0]))]
    same = _same(path, _items(path, "same", content[1]))
    if len(images) != 2 * len(same) or not images:
        raise PairFileError(
            f"{path}: {len(images)} images and {len(same)} pair labels, expected two images a "
            f"pair, that is {2 * len(same)}, and at least one pair; {_REWRITE}"
        )
    return PairFile(path, images, same)


def write_pair_file(
    path: Path, images: Sequence[bytes | memoryview], same: Sequence[bool] | NDArray[np.bool_]
) -> None:
    """Write a verification set that this and other systems read; it replaces `path` whole.

    `images` are 2p encoded images, two a pair; `same` has p booleans. The published protocol cuts
    the pairs into ten folds in file order, so both kinds should be spread over the file:
    `balanced_order` gives such an order. Images with the same bytes are stored once.

    Raises `PairFileError` when the counts do not fit.
    """
    if len(images) != 2 * len(same) or len(same) == 0:
        raise PairFileError(
            f"{path}: {len(images)} images for {len(same)} pairs, expected {2 * len(same)} and at "
            "least one pair: image 2k and image 2k+1 form pair k"
        )
    once: dict[bytes, bytes] = {}  # pickle stores an object once, however often it occurs
    content = (
        [once.setdefault(image, image) for image in map(bytes, images)],
        [bool(value) for value in same],
    )
    with atomic_write(path) as file:
        pickle.dump(content, file, protocol=4)


def balanced_order(same: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return an order of the pairs, int64 [p], in which both kinds are spread evenly.

    Each kind keeps its own order. A stretch of the new order, such as one of ten folds, holds
    both kinds in their overall proportion, give or take one pair.
    """
    places = np.empty(len(same), dtype=np.float64)
    for kind in (False, True):
        members = np.flatnonzero(same == kind)
        places[members] = (np.arange(len(members)) + 0.5) / max(len(members), 1)
    return np.argsort(places, kind="stable").astype(np.int64)


def _map(path: Path) -> memoryview:
    """Return the file's contents as a read-only mapping, which lives as long as its views."""
    if not path.is_file():
        raise PairFileError(f"{path}: no such file; expected a verification set (.bin)")
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise PairFileError(f"{path}: the file is empty; copy or download it again")
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    refuse_lfs_pointer(path, bytes(data[:512]), PairFileError)
    return data


def _items(path: Path, name: str, value: object) -> list[object]:
    """Return a list, tuple or one-dimensional array as a list."""
    if isinstance(value, PickledArray):
        value = value.values
    if isinstance(value, np.ndarray):
        # A shape of (2**40, 0) fits into a small file, but a list of as many rows nowhere.
        if value.ndim != 1 or value.size > MAX_OPCODES:
            raise PairFileError(
                f"{path}: {name} is an array of shape {value.shape}, expected one dimension and at "
                f"most {MAX_OPCODES} items; {_REWRITE}"
            )
        value = value.tolist()
    if not isinstance(value, list | tuple):
        raise PairFileError(f"{path}: {name} is {_kind(value)}, expected a list; {_REWRITE}")
    return list(value)


def _image(path: Path, i: int, item: object) -> memoryview:
    """Return an image's bytes."""
    if isinstance(item, PickledArray) and isinstance(item.values, np.ndarray):
        array = item.values
        if array.dtype == np.uint8 and array.size == max(array.shape, default=0):
            return memoryview(array.reshape(-1).data)
        raise PairFileError(
            f"{path}: image {i} is an array of shape {array.shape}, {array.dtype}; expected an "
            f"encoded image (JPEG or PNG), bytes or a row of uint8; {_REWRITE}"
        )
    if not isinstance(item, memoryview):
        raise PairFileError(
            f"{path}: image {i} is {_kind(item)}, expected an encoded image (JPEG or PNG) as "
            f"bytes or uint8 array; {_REWRITE}"
        )
    return item


def _same(path: Path, items: list[object]) -> NDArray[np.bool_]:
    """Return the pair labels; anything but true, false, 1 and 0 is refused."""
    for k, item in enumerate(items):
        if not isinstance(item, int | float) or item not in (0, 1):
            raise PairFileError(
                f"{path}: the label of pair {k} is {_kind(item)}, expected true or false (1 or "
                f"0); {_REWRITE}"
            )
    return np.array(items, dtype=np.bool_)


def _kind(value: object) -> str:
    """Return a short description of an unpickled value for messages."""
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {len(value)} items"
    if isinstance(value, memoryview):
        return f"a byte string of {len(value)} bytes"
    if isinstance(value, PickledArray):
        return "an array"
    return f"{str(value)[:40]!r} ({type(value).__name__})"
