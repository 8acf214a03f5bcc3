"""Merges sets of records into one: payloads are copied with new labels, one at a time."""

import json
from collections.abc import Sequence
from itertools import pairwise, repeat
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from data.datasets.dataset import RecordDataset, open_records, refuse_repeated
from data.files import atomic_folder, check_space, writing
from data.progress import ProgressCallback
from data.records.format import Int64s, RecordError
from data.tools.record_set import (
    CLASSES,
    Layout,
    RecordSetWriter,
    Sharding,
    check_label_range,
    read_class_names,
    write_set_files,
)

Match = Literal["offset", "name"]
MATCHES: tuple[Match, ...] = get_args(Match)

MAPPING = "merge.json"

_Names = list[str] | None  # of a set's classes
_Classes = list[Int64s]  # for each set, the new class of each of its classes


def merge_records(
    sources: Sequence[Path],  # see `data.records.shards.find_records`; at least one
    output: Path,  # a folder that does not exist or is empty
    *,
    match: Match = "offset",
    layout: Layout = "identity",
    sharding: Sharding | None = None,  # by default there is one file
    remap_labels: bool = False,  # renumber each set's classes if its labels have gaps
    progress: ProgressCallback | None = None,
) -> tuple[int, int]:
    """Write the images of several sets as one; of one set, in another layout or other shards.

    Memory is a few numbers per image. `merge.json` says what each source gave, and `classes.json`
    what the classes are called if every class has a name of its own.

    With `match` "offset" each set's classes follow the last one's; with "name" classes of one name
    in `classes.json` are one class, in the order of their first appearance. The layout "identity"
    sorts by class; "plain" keeps the sources' order, which reads faster.

    Returns the numbers of images and of classes. Raises `ValueError` for damaged records, a file
    that is named twice, sets without names that are to be matched by name, an output that exists
    already, and a disk that is too small or full.
    """
    if not sources:
        raise ValueError("no records were named: expected at least one set to merge")
    sets = [open_records(path, remap_labels=remap_labels) for path in sources]
    refuse_repeated([source for images in sets for source in images.sources])
    names = [read_class_names(images) for images in sets]
    classes, merged_names, num_classes = (_by_name if match == "name" else _by_offset)(sets, names)
    check_label_range(num_classes)
    bounds = np.cumsum([0, *map(len, sets)])
    order = np.concatenate([b + s.in_storage_order() for b, s in zip(bounds, sets, strict=False)])
    labels = np.concatenate([new[s.labels] for new, s in zip(classes, sets, strict=True)])
    if layout == "identity":
        order = order[np.argsort(labels[order], kind="stable")]
    check_space(output, sum(path.stat().st_size for images in sets for path in images.files))
    owners = np.searchsorted(bounds, order, side="right") - 1
    rows = order - bounds[owners]
    with atomic_folder(output) as partial:
        with RecordSetWriter(partial, total=len(order), layout=layout, sharding=sharding) as writer:
            columns = (owners.tolist(), rows.tolist(), labels[order].tolist())
            for position, (owner, row, label) in enumerate(zip(*columns, strict=True)):
                writer.add_record(position, label, sets[owner].record(row))
                if (position + 1) % 1024 == 0 or position + 1 == len(order):
                    for images in sets:
                        images.release_pages()
                    if progress is not None:
                        progress(position + 1, len(order))
        image = sets[owners[0]].record(int(rows[0])).image
        write_set_files(partial, num_classes, merged_names, image)
        described = map(_describe, sources, sets, classes, repeat(match))
        with writing(partial / MAPPING):
            text = json.dumps({"match": match, "sources": list(described)}, indent=1)
            (partial / MAPPING).write_text(text, encoding="ascii")
    return len(order), num_classes


def _by_offset(sets: list[RecordDataset], names: list[_Names]) -> tuple[_Classes, _Names, int]:
    bounds = np.cumsum([0, *(images.num_classes for images in sets)])
    classes = [np.arange(start, stop) for start, stop in pairwise(bounds)]
    every = [name for of_set in names for name in of_set or []]
    are_unique = len(set(every)) == len(every) == bounds[-1]
    return classes, every if are_unique else None, int(bounds[-1])


def _by_name(sets: list[RecordDataset], names: list[_Names]) -> tuple[_Classes, _Names, int]:
    numbers: dict[str, int] = {}
    classes: _Classes = []
    for images, of_set in zip(sets, names, strict=True):
        if of_set is None:
            raise RecordError(
                f"{images.files[0].with_name(CLASSES)} does not exist: expected the names of the "
                "classes, to match by name; write it, or merge by offset"
            )
        new = [numbers.setdefault(name, len(numbers)) for name in of_set]
        classes.append(np.array(new, np.int64))
    return classes, list(numbers), len(numbers)


def _describe(
    path: Path, images: RecordDataset, classes: Int64s, match: Match
) -> dict[str, object]:
    """Return what `merge.json` says of a source."""
    described: dict[str, object] = {
        "path": str(path),
        "images": len(images),
        "classes": images.num_classes,
    }
    if match == "offset":
        described["first_class"] = int(classes[0])
    if images.class_mapping is not None:
        described["labels"] = images.stored_labels
    return described
