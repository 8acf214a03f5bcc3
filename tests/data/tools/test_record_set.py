import json
from pathlib import Path

import pytest

from data.datasets.dataset import open_records
from data.records.format import MAGIC_BYTES, RecordError, pack_record
from data.records.writer import RecordWriter
from data.tools.record_set import (
    CLASSES,
    RecordSetWriter,
    Sharding,
    parse_bytes,
    read_class_names,
)
from recognition.distributed import part_range
from tests.data.image_samples import encode


def write(folder: Path, labels: list[int], *, names: bool = False) -> Path:
    folder.mkdir()
    with RecordSetWriter(
        folder, total=len(labels), layout="identity", sharding=Sharding()
    ) as writer:
        for position, label in enumerate(labels):
            writer.add(position, label, encode(seed=position))
    if names:
        text = json.dumps({f"name {label}": label for label in set(labels)})
        (folder / CLASSES).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("text", "expected"),
    [("4096", 4096), ("2G", 2 << 30), ("500m", 500 << 20), ("3KB", 3 << 10), (" 1t ", 1 << 40)],
)
def test_sizes_are_read_with_their_units(text: str, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "G", "2x", "-1", "0", "1.5G"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"^'{text}' "):
        parse_bytes(text)


@pytest.mark.parametrize("total", [1, 7, 12])
def test_shards_by_number_are_those_of_part_range(total: int) -> None:
    for shards in range(1, total + 1):
        for part in range(shards):
            start, stop = part_range(total, shards, part)
            assert {Sharding(shards=shards).stop(p, total) for p in range(start, stop)} == {stop}


def test_shardings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="shards is 0"):
        Sharding(shards=0)
    with pytest.raises(ValueError, match=r"shards is 2 .*shard_bytes 9"):
        Sharding(2, 9)


@pytest.mark.parametrize("content", [MAGIC_BYTES * 20, b"abc" + MAGIC_BYTES * 20, bytes(99)])
def test_records_of_several_parts_fit_their_shard_too(content: bytes, tmp_path: Path) -> None:
    sharding = Sharding(shard_bytes=900)
    with RecordSetWriter(tmp_path, total=30, layout="identity", sharding=sharding) as writer:
        for position in range(30):
            writer.add(position, position // 3, content, more_labels=[1.0] * (position % 4))
    sizes = [path.stat().st_size for path in tmp_path.glob("*.rec")]
    assert len(sizes) > 3
    assert max(sizes) <= 900


def test_names_belong_to_the_labels_that_the_files_have(tmp_path: Path) -> None:
    images = open_records(write(tmp_path / "a", [0, 2, 2, 5], names=True), remap_labels=True)
    assert images.labels.tolist() == [0, 1, 1, 2]
    assert images.stored_labels == [0, 2, 5]
    assert read_class_names(images) == ["name 0", "name 2", "name 5"]
    (tmp_path / "a" / CLASSES).unlink()
    assert read_class_names(images) is None


def test_names_of_shards_belong_to_their_labels_in_whatever_order_those_come(
    tmp_path: Path,
) -> None:
    for number, label in enumerate((5, 3)):
        with RecordWriter(tmp_path / f"train-{number:05d}.rec") as writer:
            writer.write(0, pack_record(label, 0, b"image"))
    (tmp_path / CLASSES).write_text('{"three": 3, "five": 5}')
    images = open_records(tmp_path, remap_labels=True)
    assert images.labels.tolist() == [1, 0]
    assert images.stored_labels == [3, 5]
    assert read_class_names(images) == ["three", "five"]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", ""),
        ("[1, 2]", ""),
        ('{"a": "b"}', ""),
        ('{"a": 1e999}', ""),
        ("[" * 100_000, ""),
        ('{"a": 0, "b": 2}', r" 1 \(1 "),
    ],
)
def test_a_list_of_classes_of_another_form_is_refused(
    text: str, named: str, tmp_path: Path
) -> None:
    folder = write(tmp_path / "a", [0, 1])
    (folder / CLASSES).write_text(text)
    with pytest.raises(RecordError, match=rf"{folder / CLASSES}.*{named}"):
        read_class_names(open_records(folder))
