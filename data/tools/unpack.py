"""Unpacks records into image files: one folder per identity, and a list of all files."""

import csv
import re
import shutil
from pathlib import Path

import numpy as np

from data.datasets.dataset import RecordDataset, open_records
from data.files import atomic_folder, check_space, writing
from data.progress import ProgressCallback
from data.records.format import RecordError
from data.tools.encoded_image import suffix_of
from data.tools.record_set import CLASSES, read_class_names

LIST = "images.tsv"

# Names that are not those of one folder on every system, or that would be ignored as hidden.
# File names that are no UTF-8 have \udc80 to \udcff; other surrogates can be in JSON alone.
_UNFIT = re.compile(r"\.|.*[/\\\x00-\x1f\x7f-\x9f\ud800-\udc7f\udd00-\udfff]", re.DOTALL)
_LONGEST_NAME = 255  # bytes, on nearly all file systems


def unpack_records(
    records: Path,  # see `data.records.shards.find_records`
    output: Path,  # a folder that does not exist or is empty
    *,
    remap_labels: bool = False,  # renumber the classes if the labels have gaps
    progress: ProgressCallback | None = None,
) -> tuple[int, int]:
    """Write every image of a set to `output/class/key.jpg`, byte for byte.

    The folders are named after the classes if `classes.json` is next to the records, otherwise by
    their numbers, and the files by the images' keys, or by their numbers in the set if it has
    several files; numbers are padded with zeros, so that sorting the names sorts them. `images.tsv`
    lists `path<tab>class` in the order of the records: packing it gives the same records again, and
    so does packing the folder if they are sorted by class and the classes by name.

    Returns the numbers of images and of classes. Raises `ValueError` for records that are
    damaged, an image of unknown format (named), a class name that cannot be a folder's, an output
    that exists already, and a disk that is too small or full.
    """
    images = open_records(records, remap_labels=remap_labels)
    folders = _folder_names(images)
    check_space(output, sum(path.stat().st_size for path in images.files))
    keys = range(len(images)) if len(images.files) > 1 else images.sources[0].keys
    width = len(str(np.max(keys)))
    with atomic_folder(output) as partial, writing(output):
        for folder in folders:
            (partial / folder).mkdir()
        with (partial / LIST).open(
            "w", encoding="utf-8", errors="surrogateescape", newline=""
        ) as file:
            lines = csv.writer(file, delimiter="\t", lineterminator="\n")
            for count, index in enumerate(images.in_storage_order().tolist(), start=1):
                image = images.record(index).image
                suffix = suffix_of(image)
                if suffix is None:
                    raise RecordError(
                        f"{images.describe(index)}: found {len(image)} bytes that start with "
                        f"{bytes(image[:12])!r}, expected a JPEG, PNG, WebP or BMP image; "
                        "see check_records"
                    )
                label = int(images.labels[index])
                name = f"{folders[label]}/{int(keys[index]):0{width}d}{suffix}"
                (partial / name).write_bytes(image)
                lines.writerow((name, label))
                if count % 256 == 0 or count == len(images):
                    images.release_pages()
                    if progress is not None:
                        progress(count, len(images))
        classes = images.files[0].with_name(CLASSES)
        if classes.is_file():
            shutil.copyfile(classes, partial / CLASSES)
    return len(images), images.num_classes


def _folder_names(images: RecordDataset) -> list[str]:
    names = read_class_names(images)
    if names is None:
        width = len(str(images.num_classes - 1))
        return [f"{number:0{width}d}" for number in range(images.num_classes)]
    for name in names:
        if _UNFIT.match(name) or not 0 < len(name.encode("utf-8", "replace")) <= _LONGEST_NAME:
            raise RecordError(
                f"{images.files[0].with_name(CLASSES)}: the class name {name!r} cannot be a "
                "folder's: rename it there, or delete the file to have numbered folders"
            )
    return names
