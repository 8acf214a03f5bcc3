"""Image files with labels: a folder with one sub-folder an identity, or a list of files.

Training reads them and packing makes records of them by the same rules, so a folder or a list
gives the same images, classes and order either way. `data.datasets.lists` has the rules of lists.
"""

import hashlib
import logging
import os
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data.datasets.class_ids import number_datasets
from data.datasets.lists import read_list
from data.datasets.texts import Texts
from data.records.format import SIZE_MASK
from data.records.locations import LIST_SUFFIXES, DatasetError

logger = logging.getLogger(__name__)

_HASHED_AT_ONCE = 1 << 12
IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")


class _LabelledFiles:
    """The n image files of a folder or a list, as `data.datasets.sources.LabelledImages`.

    Attributes:
        location: the folder or the list.
        root: what the paths are relative to.
        paths: n texts.
        labels: place of each image's label in `names`; int32 [n].
        names: the labels, sorted: whole numbers, or texts.
    """

    def __init__(
        self,
        location: Path,
        root: Path,
        paths: Texts,
        labels: npt.NDArray[np.int32],
        names: Sequence[int | str],
    ) -> None:
        self.location, self.root, self.paths = location, root, paths
        self.labels, self.names = labels, names

    def __len__(self) -> int:
        return len(self.paths)

    def encoded(self, index: int) -> bytes:
        """Return the content of the file at `index`; `DatasetError` if it cannot be read."""
        file = self.root / self.paths[index]
        try:
            size = file.stat().st_size
            if size <= SIZE_MASK:
                return file.read_bytes()
            raise DatasetError(f"{file} has {size} bytes: expected an image of at most {SIZE_MASK}")
        except OSError as error:
            raise DatasetError(f"{file} cannot be read: {error}; was it moved?") from error

    def describe(self, index: int) -> str:
        """Return the path of the image at `index`."""
        return str(self.root / self.paths[index])

    def storage_order(self) -> None:
        """Return None: files lie in no order that is known."""


class FolderImages(_LabelledFiles):
    """Image files in one sub-folder an identity, in the order of the names.

    An image is what has the suffix of one, in whatever case. Hidden files and folders are passed
    over; other files, and images outside sub-folders, are counted in a warning. Raises
    `DatasetError` if there is no sub-folder, or one that has no image or has a folder inside.

    Attributes: see `_LabelledFiles`; `names` are those of the sub-folders.
    """

    def __init__(self, path: Path) -> None:
        entries = _visible(path)
        folders = [entry.name for entry in entries if entry.is_dir()]
        others = [entry.name for entry in entries if not entry.is_dir()]
        if not folders:
            raise DatasetError(
                f"{path} holds no sub-folders ({len(others)} files): expected one sub-folder of "
                "images for each identity, or train.rec to train on records"
            )
        counts: list[int] = []

        def paths() -> Iterator[str]:
            for folder in folders:
                images = _images_in(path, folder, others)
                counts.append(len(images))
                yield from images

        files = Texts(paths())
        if others:
            text = "%s: left out %d file(s) that are no image of an identity, such as %s"
            logger.warning(text, path, len(others), others[0])
        labels = np.repeat(np.arange(len(folders), dtype=np.int32), counts)
        super().__init__(path, path, files, labels, folders)


def _images_in(root: Path, folder: str, others: list[str]) -> list[str]:
    """Return the paths of an identity's images from `root` on; add other files to `others`."""
    images: list[str] = []
    for entry in _visible(root / folder):
        if entry.is_dir():
            raise DatasetError(
                f"{entry.path} is a folder inside an identity's folder: expected images; move it, "
                "or the images in it, one level up, or remove it"
            )
        is_image = entry.name.lower().endswith(IMAGE_SUFFIXES)
        (images if is_image else others).append(f"{folder}/{entry.name}")
    if not images:
        raise DatasetError(
            f"{root / folder} holds no image ({', '.join(IMAGE_SUFFIXES)}): expected at least one "
            "for each identity; fill it or remove it"
        )
    return images


def _visible(folder: Path) -> "list[os.DirEntry[str]]":
    """Return what is in a folder and not hidden, in the order of the names."""
    with os.scandir(folder) as entries:
        return sorted((e for e in entries if not e.name.startswith(".")), key=attrgetter("name"))


class ListImages(_LabelledFiles):
    """The image files that a list names, in its order.

    Relative paths start at `root`, the list's own folder by default. Raises `ListError` for rows
    that make no sense or contradict each other.
    """

    def __init__(self, path: Path, *, root: Path | None = None) -> None:
        listed = read_list(path)
        root = path.parent if root is None else root
        super().__init__(path, root, listed.paths, listed.labels, listed.names)

    def look_for_files(self) -> None:
        """Raise `DatasetError` if files are not there; of a long list a hundred are looked for."""
        count = len(self)
        for row in sorted({count * part // 100 for part in range(100)}):
            if not (self.root / self.paths[row]).is_file():
                raise self.missing(row)

    def missing(self, row: int) -> DatasetError:
        """Return the error for a file that is not there, which mostly means another root."""
        return DatasetError(
            f"{self.location}: image {row + 1} of {len(self)}, {self.describe(row)}, does not "
            f"exist: expected paths relative to {self.root}; state the folder that they start "
            "from (data.list_root; --root of pack_records)"
        )


@dataclass(frozen=True)
class ImageFiles:
    """The n image files of a source, as they are to become records.

    Attributes:
        root: what their names are relative to.
        names: n paths.
        labels: class of each; int64 [n], from 0 to `num_classes - 1`, each in use.
        class_names: of the classes, or None where they are the numbers that the list has.
        sizes: in bytes; int64 [n], 0 for a file that is not there.
        times: of the last change, in nanoseconds; int64 [n].
    """

    root: Path
    names: Texts
    labels: npt.NDArray[np.int64]
    class_names: list[str] | None
    sizes: npt.NDArray[np.int64]
    times: npt.NDArray[np.int64]

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return int(self.labels.max()) + 1

    def paths(self, indices: npt.NDArray[np.int64]) -> list[str]:
        """Return the paths of the images at `indices`, int64 [m].

        Text: to make a `Path` takes as long as to open the file.
        """
        root = str(self.root)
        return [os.path.join(root, self.names[index]) for index in indices.tolist()]

    def fingerprint(self, indices: npt.NDArray[np.int64]) -> bytes:
        """Return what changes with the names, labels or contents of the images at `indices`.

        Nothing is read. That of m images, int64 [m], is those of each, one after the other.
        """
        columns = (self.labels, self.sizes, self.times)
        # Lists: a NumPy number takes a microsecond to become text.
        facts = zip(indices.tolist(), *(c[indices].tolist() for c in columns), strict=True)
        text = "".join(f"{self.names[i]}\0{label} {size} {at}\n" for i, label, size, at in facts)
        return text.encode("utf-8", "surrogateescape")


def digest(images: ImageFiles, order: npt.NDArray[np.int64]) -> "hashlib._Hash":
    """Return a digest of the images at `order`, int64 [m], that more can be added to."""
    whole = hashlib.sha256()
    for start in range(0, len(order), _HASHED_AT_ONCE):
        whole.update(images.fingerprint(order[start : start + _HASHED_AT_ONCE]))
    return whole


def find_images(
    source: Path, *, root: Path | None = None, remap_labels: bool = False
) -> ImageFiles:
    """Find the images of a folder or of a list that are to be packed, with their classes.

    Args:
        source: see `FolderImages` and `ListImages`.
        root: what a list's paths are relative to; by default its own folder.
        remap_labels: number the classes afresh where a list's labels have gaps.

    Raises `DatasetError` for a source that is neither or has no images, and a list of which no
    file is there (a file that is missing among others shows when it is read), and `ListError` and
    `NumberingError` as `data.datasets.dataset.open_dataset`.
    """
    images = _open(source, root)
    numbering = number_datasets([(str(source), [images])], merge="offset", remap=remap_labels)
    (lookup,), mapping = numbering.lookups, numbering.mapping
    labels = images.labels if lookup is None else lookup[images.labels]
    sizes, times = array("q"), array("q")
    for path in images.paths:
        size, time = _facts(os.path.join(images.root, path))
        sizes.append(size)
        times.append(time)
    if isinstance(images, ListImages) and not any(times):
        raise images.missing(0)
    class_names = None if mapping is None else [str(label) for label in mapping]
    columns = np.frombuffer(sizes, np.int64), np.frombuffer(times, np.int64)
    return ImageFiles(images.root, images.paths, labels.astype(np.int64), class_names, *columns)


def _open(source: Path, root: Path | None) -> FolderImages | ListImages:
    if source.is_dir():
        if root is not None:
            raise DatasetError(f"{source} is a folder: a root is for lists; leave it out")
        return FolderImages(source)
    if source.suffix.lower() in LIST_SUFFIXES and source.is_file():
        return ListImages(source, root=root)
    state = "is neither a folder nor a list" if source.exists() else "does not exist"
    raise DatasetError(
        f"{source} {state}: expected a folder with one sub-folder of images for each "
        f"identity, or a list of images ({', '.join(LIST_SUFFIXES)})"
    )


def _facts(path: str) -> tuple[int, int]:
    """Return size and time of change; zeros for what is not there, which reading will name."""
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns
