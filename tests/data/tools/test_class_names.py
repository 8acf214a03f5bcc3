"""What classes are called, whatever holds their images."""

import json
from pathlib import Path

import pytest

from data.datasets.dataset import open_dataset
from data.records.format import RecordError
from data.tools.class_names import label_names
from data.tools.record_set import CLASSES, RecordSetWriter


def records(folder: Path, labels: list[int], names: dict[str, int] | None = None) -> str:
    folder.mkdir()
    with RecordSetWriter(folder, total=len(labels), layout="identity") as writer:
        for position, label in enumerate(labels):
            writer.add(position, label, b"image")
    if names is not None:
        (folder / CLASSES).write_text(json.dumps(names))
    return str(folder)


def test_names_are_those_next_to_the_records_and_labels_elsewhere(tmp_path: Path) -> None:
    # In the order of the labels that the files have, which the classes do not have.
    a = records(tmp_path / "a", [0, 2, 2, 5], {"five": 5, "none": 1, "two": 2, "Ann Müller": 0})
    b = records(tmp_path / "b", [0, 3])
    (tmp_path / "c" / "Bob").mkdir(parents=True)
    (tmp_path / "c" / "Bob" / "1.jpg").touch()
    c = str(tmp_path / "c")
    found = label_names(open_dataset([a, b, c], remap_labels=True))
    assert found == [(a, "Ann Müller"), (a, "two"), (a, "five"), (b, 0), (b, 3), (c, "Bob")]
    one = label_names(open_dataset(a, remap_labels=True))
    assert [name for _, name in one] == ["Ann Müller", "two", "five"]


def test_names_for_some_classes_only_are_refused(tmp_path: Path) -> None:
    dataset = open_dataset(records(tmp_path / "a", [0, 1], {"Ann": 0}))
    with pytest.raises(RecordError, match=r"a/classes\.json has no name for class 1"):
        label_names(dataset)
