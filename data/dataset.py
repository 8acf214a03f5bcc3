"""Labelled face images on disk: RecordIO pairs and folders with one sub-folder an identity."""

import logging
import struct
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from data.index import open_index
from data.labels import number_classes, read_images
from data.record_file import RecordFile
from data.recordio import HEADER, SIZE_MASK, Bytes, RecordError, unpack_record

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
_FLAG_AND_LABEL = struct.Struct("<If")
_FIRST_OF_LIST = struct.Struct("<f")


class DatasetError(ValueError):
    """A path that holds no usable set of images; says what was found, and the mend."""


class FaceDataset(Protocol):
    """What training needs of a dataset of n images; safe to hand to worker processes."""

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """Class of each image, from 0 to `num_classes - 1`; int64 [n]."""

    @property
    def num_classes(self) -> int:
        """Number of classes; each has an image."""

    @property
    def class_mapping(self) -> dict[int | str, int] | None:
        """Class of each original label or folder name; None where labels are used as they are."""

    def __len__(self) -> int: ...

    def storage_order(self) -> npt.NDArray[np.int64] | None:
        """Return the indices in the order in which the files hold the images, int64 [n].

        None where that is the order of the indices: image 0 first, then image 1 and so on.
        """

    def encoded(self, index: int) -> Bytes:
        """Return the encoded image at `index`; `ValueError` with its place if it cannot be read."""

    def describe(self, index: int) -> str:
        """Return the place of the image at `index` in words: file, and key and offset if any."""


def open_dataset(path: Path, *, remap_labels: bool = False) -> FaceDataset:
    """Open the images at `path` and check their labels.

    `path` is a `.rec` file, with its `.idx` beside it or none; a folder with `train.rec`; or a
    folder with one sub-folder of images for each identity. `remap_labels` numbers the classes of
    a `.rec` afresh where its labels have gaps; `class_mapping` then holds what became of each.

    Raises `DatasetError` for a path that is none of these, and `RecordError` for RecordIO that is
    damaged, has records that are no labelled image, or labels with gaps.
    """
    if path.suffix == ".rec" and path.is_file():
        return RecordDataset(path, remap_labels=remap_labels)
    if not path.is_dir():
        state = "is neither a .rec file nor a folder" if path.exists() else "does not exist"
        raise DatasetError(
            f"{path} {state}: expected a .rec file, a folder with train.rec, or a folder with one "
            "sub-folder of images for each identity"
        )
    if (path / "train.rec").is_file():
        return RecordDataset(path / "train.rec", remap_labels=remap_labels)
    records = sorted(file.name for file in path.glob("*.rec"))
    if records:
        raise DatasetError(f"{path} has no train.rec; name one of its files: {', '.join(records)}")
    return FolderDataset(path)


class RecordDataset:
    """The images of a memory-mapped `.rec` file, in the order of its `.idx`.

    In the layout with a header record that is the order of the keys 1 … n; without an `.idx`, the
    order of the file. A pickle holds the tables and the path; the file is mapped again where it
    is read. Raises as `open_dataset`.

    Attributes:
        path: the `.rec` file.
        keys: of the images; int64 [n], or the same as a range.
        labels, num_classes, class_mapping: see `FaceDataset`.
    """

    def __init__(self, path: Path, *, remap_labels: bool = False) -> None:
        self.path = path
        self._file = RecordFile(path)
        images = read_images(self._file, open_index(self._file))
        self.keys = images.keys
        self._offsets = images.offsets
        self.labels, self.num_classes, self.class_mapping = number_classes(
            path, images.labels, remap=remap_labels
        )
        # The label that the file has for each class: what `encoded` compares.
        self._stored = np.array(list(self.class_mapping or range(self.num_classes)))

    def __len__(self) -> int:
        return len(self._offsets)

    def storage_order(self) -> npt.NDArray[np.int64] | None:
        """Return the indices in the order of the offsets; None where those ascend."""
        if (self._offsets[1:] >= self._offsets[:-1]).all():
            return None
        return np.argsort(self._offsets, kind="stable")

    def encoded(self, index: int) -> Bytes:
        """Return the encoded image at `index`, without a copy unless its record is in parts.

        Raises `RecordError` if no record with an image of this class is there any more.
        """
        payload = self._file.read(int(self._offsets[index]), int(self.keys[index]))
        if len(payload) > HEADER.size:
            flag, label = _FLAG_AND_LABEL.unpack_from(payload)
            image = payload[HEADER.size + 4 * flag :]
            if flag and len(image):
                (label,) = _FIRST_OF_LIST.unpack_from(payload, HEADER.size)
            # A comparison with a NumPy integer would take as long as all of this together.
            if len(image) and label == int(self._stored[self.labels[index]]):
                return image
        raise self._refusal(index, payload)

    def describe(self, index: int) -> str:
        """Return file, key and offset of the image at `index`."""
        return self._file.where(int(self._offsets[index]), int(self.keys[index]))

    def _refusal(self, index: int, payload: Bytes) -> RecordError:
        try:
            record = unpack_record(payload)
            found = f"label {record.labels[0]:g} and {len(record.image)} bytes of image"
        except RecordError as error:
            found = str(error)
        return RecordError(
            f"{self.describe(index)}: found {found}; expected label "
            f"{self._stored[self.labels[index]]} and an image: the file was changed while in "
            "use, or its identities' key ranges do not fit its images; write it again"
        )


class FolderDataset:
    """Image files in one sub-folder an identity; classes in the order of the sub-folders' names.

    Hidden files and folders are passed over; other files without an image's suffix, and images
    outside sub-folders, are counted in a warning. Raises `DatasetError` if there is no
    sub-folder, or one without images.

    Attributes:
        path: the folder.
        labels, num_classes, class_mapping: see `FaceDataset`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        entries = sorted(p for p in path.iterdir() if not p.name.startswith("."))
        folders = [p for p in entries if p.is_dir()]
        ignored = len(entries) - len(folders)
        self._files: list[str] = []
        counts: list[int] = []
        for folder in folders:
            names = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
            images = [n for n in names if n.lower().endswith(IMAGE_SUFFIXES)]
            if not images:
                raise DatasetError(
                    f"{folder} holds no image ({', '.join(IMAGE_SUFFIXES)}): expected at least "
                    "one for each identity; fill it or remove it"
                )
            ignored += len(names) - len(images)
            counts.append(len(images))
            self._files += images
        if not folders:
            raise DatasetError(
                f"{path} holds neither train.rec nor sub-folders ({ignored} other files): "
                "expected one sub-folder of images for each identity"
            )
        if ignored:
            logger.warning("%s: left out %d files that are no image of an identity", path, ignored)
        self._folders = [folder.name for folder in folders]
        self.num_classes = len(folders)
        self.labels = np.repeat(np.arange(len(folders)), counts)
        self.class_mapping: dict[int | str, int] | None = {
            name: label for label, name in enumerate(self._folders)
        }

    def __len__(self) -> int:
        return len(self._files)

    def storage_order(self) -> None:
        """Return None: images are numbered folder by folder."""

    def encoded(self, index: int) -> Bytes:
        """Return the content of the file at `index`; `DatasetError` if it cannot be read."""
        file = self._file(index)
        try:
            size = file.stat().st_size
            if size <= SIZE_MASK:
                return file.read_bytes()
            raise DatasetError(f"{file} has {size} bytes: expected an image of at most {SIZE_MASK}")
        except OSError as error:
            raise DatasetError(f"{file} cannot be read: {error}; was it moved?") from error

    def describe(self, index: int) -> str:
        """Return the path of the image at `index`."""
        return str(self._file(index))

    def _file(self, index: int) -> Path:
        return self.path / self._folders[int(self.labels[index])] / self._files[index]
