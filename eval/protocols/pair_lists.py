"""The official pair lists of LFW, CALFW, CPLFW, CFP and AgeDB-30, and pairs of one's own.

Shape legend: n images, p pairs.

Each reader returns the pairs in protocol order, fold by fold. Image paths are as the data set
stores them, relative to its folder of images.

- LFW, `pairs.txt`: the folds and the pairs of each kind per fold, then per fold lines of
  `name number number` (one person) and `name number name number` (two).
- CALFW and CPLFW: two lines of `image label` per pair, label 0 for two people. Fold k is the k-th
  tenth of the pairs of one person and of the pairs of two.
- CFP: `Split/<FF or FP>/<fold>/same.txt` and `diff.txt`, with numbers from 1 into `Pair_list_F.txt`
  and `Pair_list_P.txt`.
- AgeDB-30: a MATLAB file with two rows of names per fold, and labels 1 and -1.
"""

import posixpath
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.datasets.folders import FolderImages
from data.order.permutation import make_keys
from data.pairs.lists import read_pair_list
from eval.protocol import FOLDS

Bools = NDArray[np.bool_]
Integers = NDArray[np.int64]
CfpProtocol = Literal["FF", "FP"]

MOST_PAIRS: Final = 100_000_000  # of a folder; each takes two row numbers, 16 bytes
_NAMES: Final = 5  # in a message


class ListedPair(NamedTuple):
    """Two images, whether they show one person, and the fold from 0; None for no folds."""

    first: str
    second: str
    same: bool
    fold: int | None


@dataclass(frozen=True, eq=False)
class PairList:
    """Pairs of images in protocol order."""

    images: Sequence[str]  # [n], each once
    rows: Integers  # [2p]; images 2k and 2k + 1 are pair k, as `verify_embeddings` takes them
    same_p: Bools
    fold_p: Integers | None  # from 0; None if the list has no folds

    def __iter__(self) -> Iterator[ListedPair]:
        """Yield the pairs one by one."""
        folds = [None] * len(self.same_p) if self.fold_p is None else self.fold_p.tolist()
        for pair, (same, fold) in enumerate(zip(self.same_p.tolist(), folds, strict=True)):
            first, second = self.rows[2 * pair : 2 * pair + 2]
            yield ListedPair(self.images[first], self.images[second], same, fold)

    def check_folds(self) -> None:
        """Raise `ValueError` unless the folds are those that `eval.protocol.ten_fold` cuts."""
        if self.fold_p is None:
            return
        sizes = np.bincount(self.fold_p).tolist()
        expected = [len(part) for part in np.array_split(self.same_p, FOLDS)]
        if sizes != expected:
            raise ValueError(
                f"folds of {sizes} pairs: expected {expected}, as the ten folds of the protocol "
                "follow the order of the pairs; use a complete list"
            )

    def check_images(self, root: Path) -> None:
        """Raise `ValueError` unless every image is a file below `root`."""
        missing = [name for name in self.images if not (root / name).is_file()]
        if missing:
            raise ValueError(
                f"{root}: {len(missing)} of {len(self.images)} images are missing, as "
                f"{', '.join(missing[:_NAMES])}; expected the folder that the list's paths start "
                "from: name that one, or copy the images"
            )


def read_lfw(path: Path) -> PairList:
    """Read `pairs.txt` of LFW; raises `ValueError` with the first line that does not fit."""
    lines = _lines(path)
    number, header = lines[0]
    counts = [int(cell) for cell in header.split() if cell.isdecimal()]
    if len(counts) != len(header.split()) or len(counts) not in (1, 2):
        raise _fault(path, number, header, "the folds, and the pairs of each kind per fold")
    # The development lists, `pairsDevTrain.txt` and `pairsDevTest.txt`, have no folds.
    folds, each = counts if len(counts) == 2 else (1, counts[0])
    if len(lines) - 1 != 2 * folds * each or not each:
        raise ValueError(
            f"{path}: {len(lines) - 1} pairs, and its first line {header!r} stands for "
            f"{2 * folds * each}: expected that many lines; download the list again"
        )
    pairs = []
    for index, (number, line) in enumerate(lines[1:]):
        fold, place = divmod(index, 2 * each)
        same, cells = place < each, line.split()
        numbers = cells[1:] if same else cells[1::2]
        if len(cells) != (3 if same else 4) or not all(cell.isdecimal() for cell in numbers):
            kind = "name number number" if same else "name number name number"
            raise _fault(path, number, line, kind)
        names = (cells[0], cells[0] if same else cells[2])
        first, second = (
            f"{name}/{name}_{int(image):04}.jpg" for name, image in zip(names, numbers, strict=True)
        )
        pairs.append(ListedPair(first, second, same, fold if len(counts) == 2 else None))
    return _pair_list(pairs)


def read_calfw(path: Path) -> PairList:
    """Read `pairs_CALFW.txt` or `pairs_CPLFW.txt`.

    Raises `ValueError` for a line that does not fit, and for pairs that do not make ten folds.
    """
    lines = _lines(path)
    kinds: dict[bool, list[tuple[str, str]]] = {True: [], False: []}
    for (number, first), (_, second) in zip(lines[0::2], lines[1::2], strict=False):
        a, b = first.split(), second.split()
        if len(a) != 2 or len(b) != 2 or a[1] != b[1] or not a[1].isdecimal():
            raise _fault(
                path, number, f"{first}\\n{second}", "two lines of image and label, the same label"
            )
        kinds[a[1] != "0"].append((a[0], b[0]))
    if len(lines) % 2 or min(map(len, kinds.values())) < FOLDS:
        raise ValueError(
            f"{path}: {len(lines)} lines, {len(kinds[True])} pairs of one person and "
            f"{len(kinds[False])} of two: expected two lines per pair and {FOLDS} pairs of each "
            "kind, one per fold; download the list again"
        )
    tenths = {same: np.array_split(np.arange(len(own)), FOLDS) for same, own in kinds.items()}
    return _pair_list(
        ListedPair(kinds[same][pair][0], kinds[same][pair][1], same, fold)
        for fold in range(FOLDS)
        for same in (True, False)
        for pair in tenths[same][fold]
    )


def read_cfp(protocol_folder: Path, protocol: CfpProtocol) -> PairList:
    """Read frontal to frontal (FF) or frontal to profile (FP) pairs of CFP's folder `Protocol`.

    Paths are relative to the folder above it. Raises `ValueError` with the first line that does not
    fit, and without the folder of the protocol.
    """
    frontal, second_images = (
        _cfp_images(protocol_folder, f"Pair_list_{side}.txt") for side in ("F", protocol[1])
    )
    splits = protocol_folder / "Split" / protocol
    folds = sorted(path for path in splits.glob("*") if path.is_dir())
    if not folds:
        raise ValueError(
            f"{splits} has no folders: expected one per fold, 01 to {FOLDS}; name the folder "
            "Protocol of CFP"
        )
    pairs = []
    for fold, folder in enumerate(folds):
        for name, same in (("same.txt", True), ("diff.txt", False)):
            for number, line in _lines(folder / name):
                cells = [cell.strip() for cell in line.split(",")]
                images = [
                    listed.get(int(cell)) if cell.isdecimal() else None
                    for listed, cell in zip((frontal, second_images), cells, strict=False)
                ]
                first, second = images if len(cells) == 2 else (None, None)
                if first is None or second is None:
                    kind = f"two numbers of images, up to {len(frontal)} and {len(second_images)}"
                    raise _fault(folder / name, number, line, kind)
                pairs.append(ListedPair(first, second, same, fold))
    return _pair_list(pairs)


def _cfp_images(protocol_folder: Path, name: str) -> dict[int, str]:
    """Return the path of each number of an image list, relative to the data set's folder."""
    images = {}
    for number, line in _lines(protocol_folder / name):
        cells = line.split(maxsplit=1)
        # The paths are relative to the folder of the list, `../Data/Images/…`.
        path = posixpath.normpath(f"Protocol/{cells[-1].strip()}")
        if len(cells) != 2 or not cells[0].isdecimal() or path.startswith(("..", "/")):
            raise _fault(protocol_folder / name, number, line, "a number and ../Data/Images/…")
        if int(cells[0]) in images:
            raise _fault(protocol_folder / name, number, line, "each number once")
        images[int(cells[0])] = path
    return images


def read_agedb(path: Path) -> PairList:
    """Read `04_FINAL_protocol_30_years.mat` of AgeDB; raises `ValueError` for another file."""
    pairs = []
    try:
        for fold, split in enumerate(read_matlab(path)["splits"].ravel()):
            # Structures within structures: MATLAB writes each as an array of one.
            split = split.item() if isinstance(split, np.ndarray) else split
            names, labels = split[0], split[1].ravel().tolist()
            first, second = ([f"{_text(cell)}.jpg" for cell in row] for row in names)
            for a, b, label in zip(first, second, labels, strict=True):
                if label not in (1, -1):
                    raise ValueError(f"the label {label} of {a} and {b}: expected 1 or -1")
                pairs.append(ListedPair(a, b, label == 1, fold))
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{path}: {type(error).__name__}: {error}; expected splits with names [2, p] and "
            "labels 1 and -1; download the file again"
        ) from error
    return _pair_list(pairs)


def _text(cell: Any) -> str:
    """Return the text within any number of arrays and structures of one element."""
    while not isinstance(cell, str):
        cell = cell.item() if isinstance(cell, np.ndarray) else cell[0]
    return cell


def read_csv(path: Path) -> PairList:
    """Read a CSV file of `path_a,path_b,same`, with or without a column `fold`.

    Pairs of one fold stand together, numbered in the order in which folds first occur. Raises
    `PairListError`, a `ValueError`, with the first line that is not a pair.
    """
    listed = read_pair_list(path)
    folds = {name: fold for fold, name in enumerate(dict.fromkeys(pair.fold for pair in listed))}
    listed.sort(key=lambda pair: folds[pair.fold])
    return _pair_list(
        ListedPair(pair.a, pair.b, pair.same, None if pair.fold is None else folds[pair.fold])
        for pair in listed
    )


def pair_folder(
    folder: Path,  # one sub-folder of images per identity
    *,
    same: int | None = None,
    different: int | None = None,
    seed: int = 0,
) -> PairList:
    """Return pairs of the images in a folder of identities: all, or a stated number of each kind.

    A stated number is drawn by a hash of the two paths and the seed, so every machine draws the
    same, and an image more in the folder changes few of them. The pairs of one person come first.
    There are no folds. Raises `ValueError` for a number that the images do not make, and for more
    than `MOST_PAIRS` pairs; `DatasetError`, a `ValueError`, for a folder of another layout.
    """
    dataset = FolderImages(folder)
    paths, owner_n = list(dataset.paths), np.asarray(dataset.labels)
    n, own = len(paths), np.bincount(owner_n).astype(np.int64)
    possible = int(np.sum(own * (own - 1)) // 2)
    counts = {True: possible, False: n * (n - 1) // 2 - possible}
    wanted = {True: same, False: different}
    for kind, number in wanted.items():
        if number is not None and not 0 <= number <= counts[kind]:
            raise ValueError(
                f"{folder}: {number} pairs of {'one person' if kind else 'two people'}: expected "
                f"0 to {counts[kind]}, which its {n} images of {len(own)} people make"
            )
    total = sum(counts[kind] if number is None else number for kind, number in wanted.items())
    if not 0 < total <= MOST_PAIRS:
        raise ValueError(
            f"{folder}: {total} pairs of {n} images: expected 1 to {MOST_PAIRS}; state a number of "
            "pairs of two people, or add images"
        )
    names_n = np.array([_name_key(path) for path in paths], dtype=np.int64)
    rows = {kind: _draw(names_n, owner_n, kind, wanted[kind], seed) for kind in (True, False)}
    return PairList(
        images=paths,
        rows=np.concatenate([rows[True], rows[False]]).ravel(),
        same_p=np.repeat([True, False], [len(rows[True]), len(rows[False])]),
        fold_p=None,
    )


def _name_key(path: str) -> int:
    digest = blake2b(path.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1  # a number of int64


def _draw(
    names_n: Integers, owner_n: NDArray[np.int32], same: bool, number: int | None, seed: int
) -> Integers:
    """Return pairs of a kind, [p, 2], in the order of the images: all, or the lowest keys."""
    pairs: list[Integers] = []
    keys: list[NDArray[np.uint64]] = []
    held, limit = 0, np.uint64(2**64 - 1)
    last = len(names_n) - 1
    for row in range(len(names_n)):
        others = row + 1 + np.flatnonzero((owner_n[row + 1 :] == owner_n[row]) == same)
        if number is not None:
            key = make_keys(seed, int(names_n[row]), names_n[others])
            others, key = others[key <= limit], key[key <= limit]
            keys.append(key)
            held += len(key)
        pairs.append(np.stack([np.full_like(others, row), others], axis=1))
        if number is not None and (row == last or held > 2 * number + len(names_n)):
            every_key = np.concatenate(keys)
            best = np.sort(np.argsort(every_key, kind="stable")[:number])  # by image again
            pairs, keys = [np.concatenate(pairs)[best]], [every_key[best]]
            held = len(best)
            limit = keys[0].max(initial=np.uint64(0)) if held == number else limit
    return np.concatenate(pairs)


def read_matlab(path: Path) -> dict[str, Any]:
    """Return the variables of a MATLAB file up to version 7; raises `ValueError` for another."""
    from scipy.io import loadmat

    try:
        content: dict[str, Any] = loadmat(path)
    except Exception as error:  # SciPy raises nearly every kind for damaged bytes
        raise ValueError(
            f"{path} cannot be read: {type(error).__name__}: {error}; expected a MATLAB file of "
            "version 7 or older: download it again"
        ) from error
    return content


def _pair_list(pairs: Iterable[ListedPair]) -> PairList:
    pairs = list(pairs)
    row_of: dict[str, int] = {}
    rows = [
        row_of.setdefault(name, len(row_of)) for pair in pairs for name in (pair.first, pair.second)
    ]
    folds = [pair.fold for pair in pairs if pair.fold is not None]
    return PairList(
        images=list(row_of),
        rows=np.array(rows, dtype=np.int64),
        same_p=np.array([pair.same for pair in pairs], dtype=np.bool_),
        fold_p=np.array(folds, dtype=np.int64) if folds else None,
    )


def _lines(path: Path) -> list[tuple[int, str]]:
    """Return the lines of a list that are not blank, with their numbers from 1."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError) as error:
        raise ValueError(f"{path} cannot be read as text: {error}; copy the list again") from error
    lines = [(n, line.strip()) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise ValueError(f"{path} has no lines: expected pairs; download the list again")
    return lines


def _fault(path: Path, number: int, line: str, expected: str) -> ValueError:
    return ValueError(
        f"{path}, line {number}: found {line[:80]!r}, expected {expected}; correct the line, or "
        "download the list again"
    )
