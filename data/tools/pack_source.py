"""The image files of a folder or a list as they are to be packed, and whether they changed."""

import hashlib
import os
import stat
from array import array
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.datasets.class_ids import number_datasets
from data.datasets.folders import ImageFiles, ListImages, open_image_files
from data.records.format import Int64s
from data.records.locations import LIST_SUFFIXES, DatasetError, LocationKind, location_kind

_HASHED_AT_ONCE = 1 << 12  # images


@dataclass(frozen=True)
class PackSource:
    """n image files to be packed."""

    files: ImageFiles
    labels: Int64s  # the class of each, from 0 to `num_classes - 1`, each in use
    class_names: list[str] | None  # None if they are the numbers in the list
    sizes: Int64s  # in bytes, 0 for a missing file, -1 for a folder, pipe or device
    times: Int64s  # of the last change, in nanoseconds

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return int(self.labels.max()) + 1

    def paths(self, indices: Int64s) -> list[str]:
        """Return the paths of the images at `indices`, int64 [m].

        As text, since making a `Path` takes as long as opening the file.
        """
        root = str(self.files.root)
        return [os.path.join(root, self.files.paths[index]) for index in indices.tolist()]

    def fingerprint(self, indices: Int64s) -> bytes:
        """Return bytes that change with the names, labels or contents of images, int64 [m].

        Nothing is read. The bytes for m images are those for each, one after the other.
        """
        columns = (self.labels, self.sizes, self.times)
        # Lists, because turning a NumPy number into text takes a microsecond.
        rows = zip(indices.tolist(), *(column[indices].tolist() for column in columns), strict=True)
        names = self.files.paths
        text = "".join(f"{names[i]}\0{label} {size} {time}\n" for i, label, size, time in rows)
        return text.encode("utf-8", "surrogateescape")

    def digest(self, order: Int64s) -> "hashlib._Hash":
        """Return a digest of the images at `order`, int64 [m], to which more can be added."""
        whole = hashlib.sha256()
        for start in range(0, len(order), _HASHED_AT_ONCE):
            whole.update(self.fingerprint(order[start : start + _HASHED_AT_ONCE]))
        return whole


def open_pack_source(
    location: Path, *, root: Path | None = None, remap_labels: bool = False
) -> PackSource:
    """Find the images of a folder or of a list, with the classes that training gives them.

    A list's paths are relative to `root`, by default its folder; `remap_labels` renumbers the
    classes if its labels have gaps.

    Raises `DatasetError` for a location that is neither, and as `open_dataset` does. A single file
    that is missing is found when it is read.
    """
    if location_kind(location) not in (LocationKind.FOLDER, LocationKind.LIST):
        state = (
            "is neither a folder of images nor a list" if location.exists() else "does not exist"
        )
        raise DatasetError(
            f"{location} {state}: expected a folder with one sub-folder of images per identity and "
            f"without .rec files, or a list of images ({', '.join(LIST_SUFFIXES)})"
        )
    files = open_image_files(location, root=root)
    if root is not None and not isinstance(files, ListImages):
        raise DatasetError(f"{location} is a folder: a root is for lists; leave it out")
    numbering = number_datasets([(str(location), [files])], merge="offset", remap=remap_labels)
    mapping = numbering.mapping
    sizes, times = array("q"), array("q")
    for path in files.paths:
        size, time = 0, 0  # of a missing file, which reading will name
        with suppress(OSError):
            status = os.stat(os.path.join(files.root, path))
            size, time = status.st_size, status.st_mtime_ns
            if not stat.S_ISREG(status.st_mode):
                size = -1
        sizes.append(size)
        times.append(time)
    return PackSource(
        files,
        numbering.classes([files]).astype(np.int64),
        None if mapping is None else [str(label) for label in mapping],
        np.frombuffer(sizes, np.int64),
        np.frombuffer(times, np.int64),
    )
