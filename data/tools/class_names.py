"""What the classes of any dataset are called: by its folders, its list, or its `classes.json`."""

from pathlib import Path
from typing import Any

import numpy as np

from data.datasets.class_ids import Label
from data.datasets.dataset import ImageDataset
from data.datasets.sources import RecordImages
from data.records.locations import is_url, shown
from data.tools.record_set import read_label_names

ClassName = tuple[str, Label]  # the dataset that a class is from, and its name or label there


def label_names(dataset: ImageDataset) -> list[ClassName]:
    """Return what each class is called; a text is a name, a number a label.

    Raises `RecordError` for a `classes.json` next to records that does not name each of theirs.
    """
    names: list[ClassName] = [("", label) for label in range(dataset.num_classes)]
    mapping: Any = dataset.class_mapping
    locations = list(dict.fromkeys(shown(source.location) for source in dataset.sources))
    if mapping is None:
        place = locations[0] if len(locations) == 1 else ""
        names = [(place, label) for _, label in names]
    else:
        nested = bool(mapping) and all(isinstance(value, dict) for value in mapping.values())
        for place, labels in (mapping if nested else {locations[0]: mapping}).items():
            for label, number in labels.items():
                names[number] = (str(place), label)
    for folder, classes in _record_folders(dataset).items():
        found = read_label_names(folder, [int(names[number][1]) for number in classes])
        for number, name in zip(classes, found or [], strict=found is not None):
            names[number] = (names[number][0], name)
    return names


def _record_folders(dataset: ImageDataset) -> dict[Path, list[int]]:
    """Return the folders on this machine that hold records, with the classes of these."""
    # An image of each class says which source the class is from: no two datasets share one here.
    _, images = np.unique(dataset.labels, return_index=True)
    starts = np.cumsum([0, *map(len, dataset.sources)])
    folders: dict[Path, list[int]] = {}
    for number, owner in enumerate((np.searchsorted(starts, images, side="right") - 1).tolist()):
        source = dataset.sources[owner]
        if isinstance(source, RecordImages) and not is_url(source.location):
            folders.setdefault(Path(source.location).parent, []).append(number)
    return folders
