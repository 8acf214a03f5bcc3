import json
from pathlib import Path

import numpy as np
import pytest

from data.datasets.class_ids import NumberingError
from data.records.format import MAGIC_BYTES, RecordError
from data.tools.record_set import CLASSES, Cut, RecordSet, RecordSetWriter, parse_bytes
from recognition.distributed import part_range
from tests.data.image_samples import encode

RECORDS = Path(__file__).parents[2] / "fixtures" / "recordio"


def write(folder: Path, labels: list[int], *, cut: Cut | None = None, names: bool = False) -> Path:
    folder.mkdir()
    with RecordSetWriter(folder, total=len(labels), layout="identity", cut=cut or Cut()) as writer:
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
    with pytest.raises(ValueError, match="is no size: expected a number of bytes such as 2G"):
        parse_bytes(text)


@pytest.mark.parametrize("total", [1, 7, 12])
def test_a_cut_by_number_is_that_of_part_range(total: int) -> None:
    for shards in range(1, total + 1):
        for part in range(shards):
            start, stop = part_range(total, shards, part)
            assert {Cut(shards=shards).stop(p, total) for p in range(start, stop)} == {stop}


def test_cuts_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="shards is 0: expected at least 1"):
        Cut(shards=0)
    with pytest.raises(ValueError, match="shards is 2 and shard_bytes 9: expected one of them"):
        Cut(2, 9)


@pytest.mark.parametrize("content", [MAGIC_BYTES * 20, b"abc" + MAGIC_BYTES * 20, bytes(99)])
def test_records_of_several_parts_fit_their_shard_too(content: bytes, tmp_path: Path) -> None:
    cut = Cut(shard_bytes=900)
    with RecordSetWriter(tmp_path, total=30, layout="identity", cut=cut) as writer:
        for position in range(30):
            writer.add(position, position // 3, content, more_labels=[1.0] * (position % 4))
    sizes = [path.stat().st_size for path in tmp_path.glob("*.rec")]
    assert len(sizes) > 3
    assert max(sizes) <= 900


def test_a_set_is_found_by_its_files(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", [0, 0, 1, 2], cut=Cut(shards=2))
    shards = [folder / "train-00000.rec", folder / "train-00001.rec"]
    for named in (folder, folder / "train-*.rec"):
        assert RecordSet(named).paths == shards
        assert RecordSet(named).labels.tolist() == [0, 0, 1, 2]
    with pytest.raises(NumberingError, match="no image has 0"):
        RecordSet(shards[1])


def test_images_are_read_by_number_across_files(tmp_path: Path) -> None:
    records = RecordSet(write(tmp_path / "a", [0, 0, 1, 1, 1], cut=Cut(shards=3)))
    assert [bytes(records.read(i).image) for i in range(5)] == [encode(seed=i) for i in range(5)]
    assert records.sizes().tolist() == [len(encode(seed=i)) for i in range(5)]
    assert records.in_file_order().tolist() == [0, 1, 2, 3, 4]
    assert records.describe(4).endswith("train-00002.rec, key 1, offset 0")


def test_the_order_of_the_file_is_not_that_of_its_index(tmp_path: Path) -> None:
    source = RECORDS / "im2rec_headerless" / "train.idx"
    (tmp_path / "train.rec").write_bytes(source.with_suffix(".rec").read_bytes())
    lines = source.read_text().splitlines(keepends=True)
    (tmp_path / "train.idx").write_text("".join(reversed(lines)))
    records = RecordSet(tmp_path)
    offsets = records.tables[0].offsets[records.in_file_order()]
    assert (np.diff(offsets) > 0).all()
    assert records.in_file_order()[0] == len(records) - 1


def test_names_belong_to_the_labels_that_the_files_have(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", [0, 2, 2, 5], names=True)
    records = RecordSet(folder, remap_labels=True)
    assert records.labels.tolist() == [0, 1, 1, 2]
    assert records.names == ["name 0", "name 2", "name 5"]
    assert records.stored_labels == [0, 2, 5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no list of classes"),
        ("[1, 2]", "is no list of classes"),
        ('{"a": "b"}', "is no list of classes"),
        ('{"a": 0, "b": 2}', r"has no name for class 1 \(1 such classes\)"),
    ],
)
def test_a_list_of_classes_of_another_form_is_refused(
    text: str, message: str, tmp_path: Path
) -> None:
    folder = write(tmp_path / "a", [0, 1])
    (folder / CLASSES).write_text(text)
    with pytest.raises(RecordError, match=rf"{CLASSES} {message}"):
        RecordSet(folder)
