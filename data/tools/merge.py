"""Several sets of records to one: payloads are copied with new labels, one at a time."""

import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from data.files import writing
from data.records.format import RecordError
from data.tools.pack_job import check_space, made_at_once
from data.tools.record_set import (
    CLASSES,
    Cut,
    Layout,
    RecordSet,
    RecordSetWriter,
    check_label_range,
    write_set_files,
)

Match = Literal["offset", "name"]
MATCHES: tuple[Match, ...] = get_args(Match)

MAPPING = "merge.json"


def merge_records(
    sources: Sequence[Path],
    output: Path,
    *,
    match: Match = "offset",
    layout: Layout = "identity",
    cut: Cut | None = None,
    remap_labels: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[int, int]:
    """Write the images of several sets as one; of one set, in another layout or cut.

    Memory is a few numbers an image. `merge.json` says what each source gave, and `classes.json`
    what the classes are called where every name is one class's.

    Args:
        sources: see `data.records.shards.find_records`; at least one.
        output: a folder that does not exist or is empty.
        match: `offset` counts each set's classes on from the last one's; `name` takes classes of
            one name in `classes.json` for one class, in the order of their first appearance.
        layout: `identity` sorts by class, which reads sets out of their order where classes are
            in several; `plain` keeps the order of the sources.
        cut: where one file ends and the next begins; by default there is one file.
        remap_labels: number each set's classes afresh where its labels have gaps.
        progress: called with (images written, images in all) now and then.

    Returns the numbers of images and of classes. Raises `ValueError` for records that are
    damaged, sets without names that are to be matched by them, an output that is there already,
    and a disk that is too small or full.
    """
    if not sources:
        raise ValueError("no records were named: expected at least one set to merge")
    sets = [RecordSet(path, remap_labels=remap_labels) for path in sources]
    classes, names, num_classes = _by_name(sets) if match == "name" else _by_offset(sets)
    check_label_range(num_classes)
    bounds = np.cumsum([0, *map(len, sets)])
    order = np.concatenate([b + s.in_file_order() for b, s in zip(bounds, sets, strict=False)])
    labels = np.concatenate([new[s.labels] for new, s in zip(classes, sets, strict=True)])
    if layout == "identity":
        order = order[np.argsort(labels[order], kind="stable")]
    check_space(output, sum(path.stat().st_size for s in sets for path in s.paths))
    with made_at_once(output) as partial:
        with RecordSetWriter(partial, total=len(order), layout=layout, cut=cut or Cut()) as writer:
            owners = np.searchsorted(bounds, order, side="right") - 1
            pairs = zip(order.tolist(), owners.tolist(), strict=True)
            for position, (index, owner) in enumerate(pairs):
                record = sets[owner].read(index - int(bounds[owner]))
                writer.add_record(position, int(labels[index]), record)
                if (position + 1) % 1024 == 0 or position + 1 == len(order):
                    for records in sets:
                        records.release_pages()
                    if progress is not None:
                        progress(position + 1, len(order))
        image = sets[int(owners[0])].read(int(order[0] - bounds[owners[0]])).image
        write_set_files(partial, num_classes, names, image)
        text = json.dumps({"match": match, "sources": _facts(sets, classes, match)}, indent=1)
        with writing(partial / MAPPING):
            (partial / MAPPING).write_text(text, encoding="ascii")
    return len(order), num_classes


Classes = list[npt.NDArray[np.int64]]  # for each set, the new class of each of its classes


def _by_offset(sets: list[RecordSet]) -> tuple[Classes, list[str] | None, int]:
    bounds = np.cumsum([0, *(s.num_classes for s in sets)])
    classes = [np.arange(a, b) for a, b in pairwise(bounds)]
    names = [name for s in sets for name in s.names or []]
    whole = len(set(names)) == len(names) == bounds[-1]
    return classes, names if whole else None, int(bounds[-1])


def _by_name(sets: list[RecordSet]) -> tuple[Classes, list[str] | None, int]:
    numbers: dict[str, int] = {}
    classes: Classes = []
    for records in sets:
        if records.names is None:
            raise RecordError(
                f"{records.path} has no {CLASSES} with the names of its classes: expected one to "
                "match by name; write it, or merge by offset"
            )
        new = [numbers.setdefault(name, len(numbers)) for name in records.names]
        classes.append(np.array(new, np.int64))
    return classes, list(numbers), len(numbers)


def _facts(sets: list[RecordSet], classes: Classes, match: Match) -> list[dict[str, object]]:
    """Return what there is to know of each source, and by offset what its labels became."""
    facts: list[dict[str, object]] = []
    for records, new in zip(sets, classes, strict=True):
        fact: dict[str, object] = {
            "path": str(records.path),
            "images": len(records),
            "classes": records.num_classes,
        }
        if match == "offset":
            fact["first_class"] = int(new[0])
        if records.stored_labels is not None:
            fact["labels"] = records.stored_labels
        facts.append(fact)
    return facts
