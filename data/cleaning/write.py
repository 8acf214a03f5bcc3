"""Writes a cleaned dataset, and what became of each label and image."""

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Final

import numpy as np

from data.cleaning.decide import Plan
from data.cleaning.embeddings import Int64s
from data.datasets.dataset import ImageDataset
from data.files import atomic_folder, atomic_write, writing
from data.progress import ProgressCallback
from data.records.locations import short_names
from data.tools.class_names import ClassName
from data.tools.record_set import (
    RecordSetWriter,
    Sharding,
    check_label_range,
    write_set_files,
)

LABELS: Final = "labels.csv"
IMAGES: Final = "images.csv"


def write_cleaned(
    dataset: ImageDataset,
    names: Sequence[ClassName],  # of its classes
    plan: Plan,
    output: Path,
    *,
    sharding: Sharding | None = None,
    progress: ProgressCallback | None = None,
) -> tuple[int, int]:
    """Write the images that stay, by their new labels, as records in the identity layout.

    Next to them `labels.csv`, `images.csv`, and `classes.json` if there are names. Bytes of images
    are copied. Returns the numbers of images and labels; raises `ValueError` for an output that
    exists and a disk that is full.
    """
    check_label_range(plan.num_labels)
    stay = np.flatnonzero(plan.labels >= 0)
    order = stay[np.argsort(plan.labels[stay], kind="stable")]
    with atomic_folder(output) as partial:
        with RecordSetWriter(
            partial, total=len(order), layout="identity", sharding=sharding
        ) as writer:
            for position, index in enumerate(order.tolist()):
                writer.add(position, int(plan.labels[index]), dataset.encoded(index))
                if progress is not None and (position + 1) % 1024 == 0:
                    progress(position + 1, len(order))
        image = dataset.encoded(int(order[0]))
        write_set_files(partial, plan.num_labels, new_names(names, plan), image)
        write_map(dataset, names, plan, partial)
    return len(order), plan.num_labels


def write_map(dataset: ImageDataset, names: Sequence[ClassName], plan: Plan, folder: Path) -> None:
    """Write what becomes of labels and images.

    `labels.csv`: dataset, its label, the number of its images, the new label of most of them, empty
    if none stays, and how many have it. `images.csv`: the image's number, where it is, its label,
    the new one, empty if it is left out, and why it changes. Labels are as in `names`.
    """
    old = dataset.labels.astype(np.int64)
    with _rows(folder / LABELS) as write:
        write.writerow(["dataset", "label", "images", "new_label", "of_them"])
        for label, most, count, total in _by_label(old, plan.labels, dataset.num_classes):
            write.writerow([*names[label], total, "" if most < 0 else most, count])
    with _rows(folder / IMAGES) as write:
        write.writerow(["image", "where", "dataset", "label", "new_label", "reason"])
        columns = (map(int, old), map(int, plan.labels), plan.reasons)
        for index, (label, new, reason) in enumerate(zip(*columns, strict=True)):
            name = dataset.describe(index)
            write.writerow([index, name, *names[label], "" if new < 0 else new, reason])


def new_names(names: Sequence[ClassName], plan: Plan) -> list[str] | None:
    """Return what the new labels are called, each otherwise; None if no class has a name.

    A class without one is called after its dataset and label. The second half of a divided label,
    and the same name from another dataset, get a number: `Ann 2`.
    """
    if not any(isinstance(name, str) for _, name in names):
        return None
    places = sorted({place for place, _ in names})
    short = dict(zip(places, short_names(places), strict=True))
    every = [name if isinstance(name, str) else f"{short[at]} {name}" for at, name in names]
    taken, found = set(every), dict[str, None]()
    for label, is_half in zip(plan.named_after.tolist(), plan.is_half.tolist(), strict=True):
        name, number = every[label], 2
        if is_half or name in found:
            while f"{name} {number}" in taken:
                number += 1
            name = f"{name} {number}"
        taken.add(name)
        found[name] = None
    return list(found)


def _by_label(old: Int64s, new: Int64s, count: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield each label with the new one of most of its images, how many those are, and its size."""
    order = np.argsort(old, kind="stable")
    bounds = np.searchsorted(old[order], np.arange(count + 1))
    for label in range(count):
        found = new[order[bounds[label] : bounds[label + 1]]]
        values, counts = np.unique(found[found >= 0], return_counts=True)
        if len(values):
            top = int(np.argmax(counts))
            yield label, int(values[top]), int(counts[top]), len(found)
        else:
            yield label, -1, 0, len(found)


@contextmanager
def _rows(path: Path) -> Iterator[Any]:
    """Yield a writer of a CSV file that appears when it is whole."""
    with writing(path), atomic_write(path) as file:
        text = TextIOWrapper(file, "utf-8", "surrogateescape", newline="", write_through=True)
        yield csv.writer(text)
        text.flush()
        text.detach()
