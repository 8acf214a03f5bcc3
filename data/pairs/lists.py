"""Verification pairs from a list into a `.bin`, and back.

The protocol divides a `.bin` into folds in file order, so the order of the pairs makes the folds:
each has as many pairs of one person as of two.

A list is a CSV file of `path_a,path_b,same` or `path_a,path_b,same,fold`, with or without these
names in its first line. Paths are relative to a folder; `same` is 1, 0, true or false; pairs of
one fold keep their order.
"""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from data.datasets.lists import path_fault
from data.files import make_output_folder
from data.loading.decode import BadImage, decode_into
from data.pairs.bin_file import FOLDS, balanced_order, read_pair_file, write_pair_file
from data.progress import ProgressCallback
from recognition.distributed import part_range

COLUMNS: Final = ("path_a", "path_b", "same", "fold")
_SAME: Final = {"1": True, "true": True, "0": False, "false": False}
_SUFFIXES: Final = {b"\xff\xd8": ".jpg", b"\x89P": ".png", b"BM": ".bmp", b"RI": ".webp"}


class PairListError(ValueError):
    """Pairs that cannot be made into a verification set; has the location and the fix."""


@dataclass(frozen=True)
class Pair:
    """Two images by their names in a list, whether they show one person, and a fold if stated."""

    a: str
    b: str
    same: bool
    fold: str | None = None


@dataclass(frozen=True)
class Written:
    """How many pairs were written."""

    pairs: int
    same: int  # of one person
    images: int  # different ones
    remarks: tuple[str, ...]  # what the user should know about the pairs, one sentence each


def read_pair_list(path: Path) -> list[Pair]:
    """Read a list; raises `PairListError` with the first line that is not a pair."""
    pairs: list[Pair] = []
    width = line = 0
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            for row in reader:
                line = reader.line_num
                cells = [cell.strip() for cell in row]
                is_heading = not width and tuple(map(str.lower, cells)) in (COLUMNS[:3], COLUMNS)
                if is_heading or not any(cells):
                    continue
                width = width or len(cells)
                same = _SAME.get(cells[2].lower()) if len(cells) == width in (3, 4) else None
                if same is None or not all(cells):
                    raise PairListError(
                        f"{path}, line {line}: found {','.join(row)[:80]!r}, expected "
                        f"path_a,path_b,same{',fold' if width == 4 else ''} with same 1, 0, true "
                        "or false, as in the first line"
                    )
                for name in cells[:2]:
                    if fault := path_fault(name):
                        raise PairListError(
                            f"{path}, line {line}: found {name[:80]!r}, {fault}; rename "
                            "the file and correct the line, or omit the pair"
                        )
                pairs.append(Pair(cells[0], cells[1], same, cells[3] if width == 4 else None))
    except (OSError, UnicodeError, csv.Error) as error:
        raise PairListError(
            f"{path} cannot be read as CSV after line {line}: {error}; expected UTF-8 lines of "
            "path_a,path_b,same"
        ) from error
    if not pairs:
        raise PairListError(f"{path} lists no pairs: expected lines of path_a,path_b,same")
    return pairs


def pack_pair_list(
    path: Path,
    images: Path,  # the folder that the list's paths are relative to
    output: Path,
    *,
    folds: int = FOLDS,
    uneven: bool = False,  # allow folds with more pairs of one kind than of the other
    progress: ProgressCallback | None = None,
) -> Written:
    """Write the pairs of the list `path` as a verification set, replacing an earlier `output`.

    Raises `PairListError` for a list or an image that cannot be used, and for pairs that cannot be
    divided into even folds.
    """
    pairs = read_pair_list(path)
    order, remarks = _fold_order(path, pairs, folds, uneven)
    pairs = [pairs[index] for index in order.tolist()]
    remarks += _repeated(pairs)
    names = list(dict.fromkeys(name for pair in pairs for name in (pair.a, pair.b)))
    contents: dict[str, bytes] = {}
    for number, name in enumerate(names, start=1):
        contents[name] = _read_image(images / name)
        if progress is not None:
            progress(number, len(names))
    write_pair_file(
        output,
        [contents[name] for pair in pairs for name in (pair.a, pair.b)],
        [pair.same for pair in pairs],
    )
    return Written(len(pairs), sum(pair.same for pair in pairs), len(names), tuple(remarks))


def unpack_pair_file(
    path: Path, folder: Path, *, folds: int = FOLDS, progress: ProgressCallback | None = None
) -> Written:
    """Write the images of a verification set and its pairs, as `pairs.csv`, into `folder`.

    Images with the same bytes become one file. `pack_pair_list` turns the folder back into the
    same set.

    Raises `PairFileError` for a file that is not a verification set, `OutputFolderError` for a
    folder that is not empty, and `PairListError` for more folds than pairs.
    """
    pairs = read_pair_file(path)
    if not 1 <= folds <= len(pairs.same):
        raise PairListError(
            f"{path}: {folds} folds of {len(pairs.same)} pairs: expected 1 to {len(pairs.same)}"
        )
    make_output_folder(folder)
    (folder / "images").mkdir()
    names: dict[bytes, str] = {}
    for index, view in enumerate(pairs.images):
        image = bytes(view)
        if image not in names:
            names[image] = f"images/{index:06d}{_SUFFIXES.get(image[:2], '')}"
            (folder / names[image]).write_bytes(image)
        if progress is not None:
            progress(index + 1, len(pairs.images))
    paths = [names[bytes(view)] for view in pairs.images]
    with (folder / "pairs.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for fold in range(folds):
            for k in range(*part_range(len(pairs.same), folds, fold)):
                writer.writerow([paths[2 * k], paths[2 * k + 1], int(pairs.same[k]), fold])
    return Written(len(pairs.same), int(pairs.same.sum()), len(names), ())


def _fold_order(
    path: Path, pairs: Sequence[Pair], folds: int, uneven: bool
) -> tuple[NDArray[np.int64], list[str]]:
    """Return the order of the pairs in the file, int64 [p], and remarks on it."""
    same = np.array([pair.same for pair in pairs])
    ranges = [part_range(len(pairs), folds, fold) for fold in range(folds)]
    sizes = [stop - start for start, stop in ranges]
    if folds < 2 or len(pairs) < folds or same.all() or not same.any():
        raise PairListError(
            f"{path}: {same.sum()} pairs of one person and {(~same).sum()} of two for {folds} "
            "folds: expected at least two folds, a pair for each, and some pairs of each kind"
        )
    remarks: list[str] = []
    if pairs[0].fold is not None:
        order = _stated_order(path, [str(pair.fold) for pair in pairs], sizes)
    elif _is_even(same, sizes):
        order = np.arange(len(pairs))
    else:
        order = balanced_order(same)
        remarks = ["the pairs were reordered to spread both kinds over all folds"]
    if not uneven and not _is_even(same[order], sizes):
        raise PairListError(
            f"{path}: {same.sum()} pairs of one person and {(~same).sum()} of two cannot be "
            f"divided into {folds} folds with equally many of each kind: expected the same number "
            f"of both, a multiple of {folds}, and in each fold if the list states folds; omit "
            "some pairs, or allow uneven folds (--uneven)"
        )
    return order, remarks


def _stated_order(path: Path, stated: list[str], sizes: list[int]) -> NDArray[np.int64]:
    """Return the order of the pairs by the folds that the list states."""
    # Numbers in numerical order, then any other names in alphabetical order.
    names = sorted(set(stated), key=lambda name: (not name.isdecimal(), name.rjust(20), name))
    counts = [stated.count(name) for name in names]
    if counts != sizes:
        raise PairListError(
            f"{path}: folds of {counts} pairs: expected {len(sizes)} folds of {sizes} pairs, as "
            "in the protocol; give each fold that many pairs, or omit the fold column"
        )
    return np.argsort([names.index(name) for name in stated], kind="stable").astype(np.int64)


def _is_even(same: NDArray[np.bool_], sizes: Iterable[int]) -> bool:
    """Return whether each of the consecutive folds has as many pairs of one person as of two."""
    ends = np.cumsum([0, *sizes])
    return all(2 * same[a:b].sum() == b - a for a, b in pairwise(ends))


def _repeated(pairs: Sequence[Pair]) -> list[str]:
    """Return remarks on pairs that are valid but of less value."""
    alone = sum(pair.a == pair.b for pair in pairs)
    again = len(pairs) - len({frozenset((pair.a, pair.b)) for pair in pairs})
    remarks = [f"{alone} pairs are of an image with itself"] if alone else []
    return remarks + ([f"{again} pairs are listed more than once"] if again else [])


def _read_image(path: Path) -> bytes:
    """Return an image file that can be decoded."""
    try:
        if path.exists() and not path.is_file():  # a pipe or a device could be read for ever
            raise BadImage("is a folder, a pipe or a device: expected a file")
        content = path.read_bytes()
        decode_into(np.empty((112, 112, 3), np.uint8), content)
    except (OSError, BadImage) as error:
        raise PairListError(f"{path}: {error}; replace the image, or omit its pairs") from error
    return content
