"""Image files with labels: a folder with one sub-folder per identity, or a list of files.

Training and packing read both by the same rules, so that a folder or a list has the same images,
classes and order in either. `data.datasets.lists` has the rules of lists.
"""

import logging
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

import numpy as np

from data.datasets.lists import Texts, read_list
from data.records.format import SIZE_MASK, Int32s
from data.records.locations import DatasetError, LocationKind, location_kind

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
_PROBED = 100  # files of a list that are looked for when it is opened


@dataclass(eq=False)
class ImageFiles:
    """The n image files of a folder or a list, as `data.datasets.sources.LabelledImages`."""

    location: Path
    root: Path  # what the paths are relative to
    paths: Texts
    labels: Int32s  # [n], positions in `names`
    names: Sequence[int | str]  # the labels, sorted: whole numbers, or texts

    def __len__(self) -> int:
        return len(self.paths)

    def encoded(self, index: int) -> bytes:
        """Return the content of the file at `index`; `DatasetError` if it cannot be read."""
        file = self.root / self.paths[index]
        try:
            status = file.stat()
            if stat.S_ISREG(status.st_mode) and status.st_size <= SIZE_MASK:
                return file.read_bytes()
            kind = stat.filemode(status.st_mode)[0]  # a pipe or a device could be read for ever
            raise DatasetError(
                f"{file} is of type {kind!r} and has {status.st_size} bytes: expected a file "
                f"('-') with an image of at most {SIZE_MASK}; replace it"
            )
        except OSError as error:
            raise DatasetError(
                f"{file} cannot be read: {error}; copy it, or correct {self.location}"
            ) from error

    def describe(self, index: int) -> str:
        """Return the path of the image at `index`."""
        return str(self.root / self.paths[index])

    def storage_order(self) -> None:
        """Return None: the order in which files are stored is unknown."""


class FolderImages(ImageFiles):
    """Image files in one sub-folder per identity, in the order of the names.

    An image is a file with one of `IMAGE_SUFFIXES`, in upper or lower case. Hidden files and
    folders are ignored; other files, and images outside sub-folders, are counted in a warning.
    Raises `DatasetError` without sub-folders, and for one that has no image or has folders inside.
    """

    def __init__(self, path: Path) -> None:
        entries = _visible(path)
        folders = [entry.name for entry in entries if _is_folder(entry)]
        others = [entry.name for entry in entries if not _is_folder(entry)]
        if not folders:
            raise DatasetError(
                f"{path} has no sub-folders ({len(others)} files): expected one sub-folder of "
                "images per identity, or train.rec to train on records"
            )
        counts: list[int] = []

        def paths() -> Iterator[str]:
            for folder in folders:
                images = _images_in(path, folder, others)
                counts.append(len(images))
                yield from images

        files = Texts(paths())
        if others:
            text = "%s: left out %d file(s) that are not images of an identity, such as %r"
            logger.warning(text, path, len(others), others[0])
        labels = np.repeat(np.arange(len(folders), dtype=np.int32), counts)
        super().__init__(path, path, files, labels, folders)


def _images_in(root: Path, folder: str, others: list[str]) -> list[str]:
    """Return the paths of an identity's images, relative to `root`; add other files to `others`."""
    images: list[str] = []
    for entry in _visible(root / folder):
        if _is_folder(entry):
            raise DatasetError(
                f"{entry.path} is a folder inside an identity's folder: expected images; move it, "
                "or the images in it, one level up, or remove it"
            )
        is_image = entry.name.lower().endswith(IMAGE_SUFFIXES)
        (images if is_image else others).append(f"{folder}/{entry.name}")
    if not images:
        raise DatasetError(
            f"{root / folder} has no image ({', '.join(IMAGE_SUFFIXES)}): expected at least one "
            "per identity; add some or remove the folder"
        )
    return images


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _visible(folder: Path) -> "list[os.DirEntry[str]]":
    """Return what is in a folder and not hidden, sorted by name."""
    try:
        with os.scandir(folder) as entries:
            visible = (entry for entry in entries if not entry.name.startswith("."))
            return sorted(visible, key=attrgetter("name"))
    except OSError as error:
        raise DatasetError(
            f"{folder} cannot be read: {error}; allow its reading, or move the folder away"
        ) from error


class ListImages(ImageFiles):
    """The image files that a list names, in its order.

    Relative paths start at `root`, by default the list's own folder. Raises `ListError` for rows
    that make no sense or contradict each other, and `DatasetError` for a list of which none of some
    hundred files exists, which mostly means another root. Single files may be missing.
    """

    def __init__(self, path: Path, *, root: Path | None = None) -> None:
        listed = read_list(path)
        root = path.parent if root is None else root
        super().__init__(path, root, listed.paths, listed.labels, listed.names)
        rows = {len(self) * part // _PROBED for part in range(_PROBED)}
        if not any(os.path.isfile(root / self.paths[row]) for row in rows):
            raise DatasetError(
                f"{path}: the first of {len(self)} images, {self.describe(0)}, does not exist, nor "
                f"do others: expected paths relative to {root}; state the folder that they start "
                "from (data.list_root; --root of pack_records)"
            )


def open_image_files(location: Path, *, root: Path | None = None) -> ImageFiles:
    """Open a folder or a list of images, as `location_kind` tells them apart.

    `root` is what a list's paths are relative to. Raises as `FolderImages` and `ListImages`.
    """
    if location_kind(location) is LocationKind.FOLDER:
        return FolderImages(location)
    return ListImages(location, root=root)
