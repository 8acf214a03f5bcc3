"""Image files that are to become records: a folder with one sub-folder an identity, or a list.

A list is text, one image a line, in one of two forms:

    path<tab>label, or path,label        a first line `path,label` is a heading
    number<tab>label<tab>path            MXNet's, in a file whose name ends in .lst

Paths are relative to the list's own folder unless said otherwise. Labels are class numbers or
names. Whole numbers from 0 on, none left out, are used as they are; everything else is numbered
afresh, numbers in their order, names in theirs.
"""

import hashlib
import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

logger = logging.getLogger(__name__)

_NUMBER = re.compile(r"(?P<sign>-?)(?P<whole>\d+)\.?(?P<fraction>\d*)")
_LIST_SUFFIXES = (".csv", ".lst", ".tsv", ".txt")


class SourceError(ValueError):
    """A folder or list that does not say which images are whose; says where, and the mend."""


@dataclass(frozen=True)
class ImageFiles:
    """The n image files of a source.

    Attributes:
        root: what their names are relative to.
        names: n relative paths.
        labels: class of each; int64 [n], from 0 to `num_classes - 1`, each in use.
        class_names: of the classes, or None where they are the numbers that the list has.
        sizes: in bytes; int64 [n], 0 for a file that is not there.
        times: of the last change, in nanoseconds; int64 [n].
    """

    root: Path
    names: list[str]
    labels: npt.NDArray[np.int64]
    class_names: list[str] | None
    sizes: npt.NDArray[np.int64]
    times: npt.NDArray[np.int64]

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return int(self.labels.max()) + 1

    def path(self, index: int) -> str:
        """Return the path of image `index`, as text: a `Path` takes as long as opening it."""
        return os.path.join(self.root, self.names[index])

    def fingerprint(self, index: int) -> bytes:
        """Return what changes with an image's name, label or content, without reading it."""
        # int(): a NumPy number takes a microsecond to become text
        facts = f"{int(self.labels[index])} {int(self.sizes[index])} {int(self.times[index])}"
        return f"{self.names[index]}\0{facts}\n".encode("utf-8", "surrogateescape")


def digest(images: ImageFiles, order: npt.NDArray[np.int64]) -> "hashlib._Hash":
    """Return a digest of the images at `order`, int64 [m], that more can be added to."""
    whole = hashlib.sha256()
    for index in order.tolist():
        whole.update(images.fingerprint(index))
    return whole


def find_images(source: Path, *, root: Path | None = None) -> ImageFiles:
    """Find the images of a folder or of a list.

    In a folder, hidden files and folders are passed over, and so are files beside the identities'
    folders, with a warning. Everything else is taken for an image: whether it is one shows when it
    is read. `root` is what a list's paths are relative to; by default its own folder.

    Raises `SourceError` for a source that is neither, an identity without files, a folder inside
    an identity's folder, a list without lines, and a line of another form.
    """
    if source.is_dir():
        if root is not None:
            raise SourceError(f"{source} is a folder: a root is for lists; leave it out")
        return _find_in_folder(source)
    if not source.is_file() or source.suffix not in _LIST_SUFFIXES:
        state = "is neither a folder nor a list" if source.exists() else "does not exist"
        raise SourceError(
            f"{source} {state}: expected a folder with one sub-folder of images for each "
            f"identity, or a list of images ({', '.join(_LIST_SUFFIXES)})"
        )
    return _read_list(source, source.parent if root is None else root)


def _find_in_folder(root: Path) -> ImageFiles:
    with os.scandir(root) as entries:
        visible = [entry for entry in entries if not entry.name.startswith(".")]
    folders = sorted(entry.name for entry in visible if entry.is_dir())
    if not folders:
        raise SourceError(
            f"{root} holds no sub-folders ({len(visible)} files): expected one sub-folder of "
            "images for each identity"
        )
    if len(visible) > len(folders):
        stray = min(entry.name for entry in visible if not entry.is_dir())
        text = "%s: left out %d file(s) that are in no identity's folder, such as %s"
        logger.warning(text, root, len(visible) - len(folders), stray)
    names: list[str] = []
    counts: list[int] = []
    facts: list[tuple[int, int]] = []
    for folder in folders:
        with os.scandir(root / folder) as entries:
            files = sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
        if not files:
            raise SourceError(
                f"{root / folder} is empty: expected at least one image of each identity; fill it "
                "or remove it"
            )
        for entry in files:
            if entry.is_dir():
                raise SourceError(
                    f"{root / folder / entry.name} is a folder inside an identity's folder: "
                    "expected images; move it one level up, or its images one level up"
                )
            names.append(os.path.join(folder, entry.name))
            facts.append(_facts(entry))
        counts.append(len(files))
    sizes, times = np.array(facts, np.int64).T
    labels = np.repeat(np.arange(len(folders)), counts)
    return ImageFiles(root, names, labels, folders, sizes, times)


def _facts(file: "os.DirEntry[str] | Path") -> tuple[int, int]:
    """Return size and time of change; zeros for what is not there, which reading will name."""
    try:
        status = file.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def _read_list(source: Path, root: Path) -> ImageFiles:
    names: list[str] = []
    texts: list[str] = []
    with source.open(encoding="utf-8-sig", errors="surrogateescape", newline=None) as lines:
        for number, ended in enumerate(lines, start=1):
            line = ended.rstrip("\n")
            fields = _fields(line, source.suffix == ".lst")
            if number == 1 and fields == ("path", "label"):
                continue
            if fields is None or "" in fields:
                if not line.strip():
                    continue
                form = (
                    "number<tab>label<tab>path, one label"
                    if source.suffix == ".lst"
                    else ("path<tab>label or path,label")
                )
                raise SourceError(
                    f"{source}, line {number}: found {line[:80]!r}, expected {form}; correct the "
                    "line or leave it out"
                )
            names.append(fields[0])
            texts.append(fields[1])
    if not names:
        raise SourceError(f"{source} holds no lines: expected one for each image")
    labels, class_names = _number(source, texts)
    sizes, times = np.array([_facts(root / name) for name in names], np.int64).T
    return ImageFiles(root, names, labels, class_names, sizes, times)


def _fields(line: str, is_lst: bool) -> tuple[str, str] | None:
    """Return path and label of a line, None for another form."""
    if is_lst:
        parts = [part.strip() for part in line.split("\t")]
        return (parts[2], parts[1]) if len(parts) == 3 else None
    # A path may hold commas, a label may not.
    path, separator, label = line.rpartition("\t" if "\t" in line else ",")
    return (path.strip(), label.strip()) if separator else None


def _number(source: Path, texts: list[str]) -> tuple[npt.NDArray[np.int64], list[str] | None]:
    """Return the labels as classes from 0 on, and the classes' names if those are others."""
    values = {text: _whole_number(source, text) for text in set(texts)}
    numbers = sorted({value for value in values.values() if value is not None})
    names: list[str] | None
    if None in values.values():
        names = sorted(values)
        class_of = {name: number for number, name in enumerate(names)}
    else:
        names = [str(number) for number in numbers]
        afresh = {number: place for place, number in enumerate(numbers)}
        class_of = {text: afresh[value] for text, value in values.items() if value is not None}
        if numbers == list(range(len(numbers))):
            names = None
        else:
            found = "%s: the labels run from %d to %d and %d are in use: numbered afresh from 0"
            logger.warning(found, source, numbers[0], numbers[-1], len(numbers))
    return np.array([class_of[text] for text in texts], np.int64), names


def _whole_number(source: Path, text: str) -> int | None:
    """Return the number that `7` or `7.000000` means, None for a name."""
    number = _NUMBER.fullmatch(text)
    if number is None:
        return None
    if number["sign"] or number["fraction"].strip("0"):
        raise SourceError(
            f"{source}: the label {text} is no class number: expected whole numbers from 0 on, or "
            "names"
        )
    return int(number["whole"])
