"""Records to image files: one folder an identity, and a list of them all."""

import csv
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from data.files import writing
from data.records.format import RecordError
from data.tools.encoded_image import suffix_of
from data.tools.pack_job import check_space, made_at_once
from data.tools.record_set import CLASSES, RecordSet

LIST = "images.tsv"

# What is no name of one folder everywhere, or would be passed over as hidden.
_UNFIT = re.compile(r"\.|.*[/\\\x00-\x1f]")
_LONGEST_NAME = 255  # bytes, of nearly all file systems


def unpack_records(
    records: Path,
    output: Path,
    *,
    remap_labels: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[int, int]:
    """Write every image of a set to `output/class/key.jpg`, its bytes as they are.

    The folders have the classes' names where `classes.json` is beside the records, else their
    numbers, and the files the images' keys, or their numbers in the set where it has several
    files; all filled up with zeros, so that the order of the names is theirs. `images.tsv` lists
    `path<tab>class` in the order of the records: packing it gives the same records again, and so
    does packing the folder where those are sorted by class and the classes by name.

    Args:
        records: see `data.records.shards.find_records`.
        output: a folder that does not exist or is empty.
        remap_labels: number the classes afresh where the labels have gaps.
        progress: called with (images written, images in all) now and then.

    Returns the numbers of images and of classes. Raises `ValueError` for records that are
    damaged, an image of unknown form (named), a class name that is no folder's, an output that is
    there already, and a disk that is too small or full.
    """
    images = RecordSet(records, remap_labels=remap_labels)
    folders = _folder_names(images)
    check_space(output, sum(path.stat().st_size for path in images.paths))
    keys = _file_names(images)
    with made_at_once(output) as partial, writing(output):
        for folder in folders:
            (partial / folder).mkdir()
        names = partial / LIST
        with names.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            lines = csv.writer(file, delimiter="\t", lineterminator="\n")
            for count, index in enumerate(images.in_file_order().tolist(), start=1):
                image = images.read(index).image
                suffix = suffix_of(image)
                if suffix is None:
                    raise RecordError(
                        f"{images.describe(index)}: {len(image)} bytes that start with "
                        f"{bytes(image[:12])!r}: expected a JPEG, PNG, WebP or BMP image; "
                        "see check_records"
                    )
                label = int(images.labels[index])
                name = f"{folders[label]}/{keys(index)}{suffix}"
                (partial / name).write_bytes(image)
                lines.writerow((name, label))
                if count % 256 == 0 or count == len(images):
                    images.release_pages()
                    if progress is not None:
                        progress(count, len(images))
        beside = images.paths[0].with_name(CLASSES)
        if beside.is_file():
            shutil.copyfile(beside, partial / CLASSES)
    return len(images), images.num_classes


def _folder_names(images: RecordSet) -> list[str]:
    if images.names is None:
        width = len(str(images.num_classes - 1))
        return [f"{number:0{width}d}" for number in range(images.num_classes)]
    for name in images.names:
        if _UNFIT.match(name) or not 0 < len(name.encode("utf-8", "replace")) <= _LONGEST_NAME:
            raise RecordError(
                f"{images.paths[0].with_name(CLASSES)}: the class name {name!r} can be no "
                "folder's: rename it there, or delete the file to have folders with numbers"
            )
    return images.names


def _file_names(images: RecordSet) -> Callable[[int], str]:
    """Return what gives an image its file name, without suffix."""
    if len(images.paths) > 1:
        width = len(str(len(images) - 1))
        return lambda index: f"{index:0{width}d}"
    keys = images.tables[0].keys
    width = len(str(np.max(keys)))
    return lambda index: f"{int(keys[index]):0{width}d}"
