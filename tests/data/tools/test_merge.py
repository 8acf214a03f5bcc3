import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from data.datasets.class_ids import NumberingError
from data.datasets.dataset import DatasetError, open_dataset
from data.files import OutputFolderError
from data.records.format import MAGIC_BYTES, RecordError, pack_record, unpack_record
from data.records.reader import RecordFile
from data.records.writer import RecordWriter
from data.tools.merge import MAPPING, MATCHES, Match, merge_records
from data.tools.pack import PackOptions, pack_records
from data.tools.record_set import CLASSES, Sharding
from scripts.merge_records import main
from tests.data.image_samples import contents, people

RECORDS = Path(__file__).parents[2] / "fixtures" / "recordio"


def pack(folder: Path, name: str, counts: dict[str, int], **options: object) -> Path:
    people(folder / "files" / name, counts)
    pack_records(folder / "files" / name, folder / name, PackOptions(**options), workers=1)  # type: ignore[arg-type]
    return folder / name


def labelled(records: Path) -> list[tuple[int, bytes]]:
    dataset = open_dataset(records)
    return [(int(dataset.labels[i]), bytes(dataset.encoded(i))) for i in range(len(dataset))]


def shifted(images: Sequence[tuple[int, bytes]], by: int) -> list[tuple[int, bytes]]:
    return [(label + by, image) for label, image in images]


def test_classes_of_a_set_follow_those_of_the_one_before(tmp_path: Path) -> None:
    a = pack(tmp_path, "a", {"x": 2, "y": 3})
    b = pack(tmp_path, "b", {"z": 1, "w": 4}, sharding=Sharding(shards=2))
    people(tmp_path / "files" / "c", {"v": 2})
    c = pack(tmp_path, "d", {"v": 2}, layout="plain", shuffle=1)
    assert merge_records([a, b, c], tmp_path / "out") == (12, 5)
    b_images = labelled(b)
    expected = labelled(a) + shifted(b_images, 2) + shifted(labelled(c), 4)
    assert labelled(tmp_path / "out") == expected
    assert json.loads((tmp_path / "out" / CLASSES).read_text()) == {
        "x": 0, "y": 1, "w": 2, "z": 3, "v": 4
    }  # fmt: skip
    mapping = json.loads((tmp_path / "out" / MAPPING).read_text())
    assert [source["first_class"] for source in mapping["sources"]] == [0, 2, 4]
    assert (tmp_path / "out" / "property").read_text() == "5,16,16\n"


@pytest.mark.parametrize("match", MATCHES)
def test_a_set_that_is_named_twice_is_refused(match: Match, tmp_path: Path) -> None:
    a = pack(tmp_path, "a", {"x": 2, "y": 3})
    (tmp_path / "link").symlink_to(a)
    for again in (a, a / "train.rec", tmp_path / "link"):
        with pytest.raises(DatasetError, match=re.escape(f"{tmp_path / 'a' / 'train.rec'}")):
            merge_records([a, again], tmp_path / "out", match=match)
    assert not (tmp_path / "out").exists()


def test_one_name_in_two_sets_is_two_classes_by_offset_and_one_by_name(tmp_path: Path) -> None:
    a = pack(tmp_path, "a", {"x": 2, "y": 3})
    b = pack(tmp_path, "b", {"b": 1, "x": 4})
    merge_records([a, b], tmp_path / "offset")
    assert np.bincount(open_dataset(tmp_path / "offset").labels).tolist() == [2, 3, 1, 4]
    assert not (tmp_path / "offset" / CLASSES).exists()

    assert merge_records([a, b], tmp_path / "name", match="name") == (10, 3)
    assert json.loads((tmp_path / "name" / CLASSES).read_text()) == {"x": 0, "y": 1, "b": 2}
    (x_a, x_b) = (labelled(a)[:2], labelled(b)[1:])
    assert labelled(tmp_path / "name") == [
        *x_a, *shifted(x_b, -1), *labelled(a)[2:], (2, labelled(b)[0][1])
    ]  # fmt: skip


def test_sets_without_names_are_not_matched_by_them(tmp_path: Path) -> None:
    a = pack(tmp_path, "a", {"x": 1})
    (a / CLASSES).unlink()
    with pytest.raises(RecordError, match=str(a / CLASSES)):
        merge_records([a], tmp_path / "out", match="name")


def test_the_plain_layout_keeps_the_order_of_the_sources(tmp_path: Path) -> None:
    a = pack(tmp_path, "a", {"x": 5, "y": 5}, layout="plain", shuffle=1)
    b = pack(tmp_path, "b", {"z": 2})
    merge_records([a, b], tmp_path / "out", layout="plain")
    assert labelled(tmp_path / "out") == labelled(a) + shifted(labelled(b), 2)


def test_records_are_read_in_the_order_of_the_disk_whatever_the_index_says(tmp_path: Path) -> None:
    a = pack(tmp_path, "a", {"x": 5, "y": 5}, layout="plain", shuffle=1)
    merge_records([a], tmp_path / "expected", layout="plain")
    lines = (a / "train.idx").read_text().splitlines(keepends=True)
    (a / "train.idx").write_text("".join(reversed(lines)))
    merge_records([a], tmp_path / "out", layout="plain")
    expected = (tmp_path / "expected" / "train.rec").read_bytes()
    assert (tmp_path / "out" / "train.rec").read_bytes() == expected


def test_one_set_is_sharded_and_merged_to_the_same_bytes(tmp_path: Path) -> None:
    whole = pack(tmp_path, "whole", {"x": 5, "y": 5})
    merge_records([whole], tmp_path / "shards", sharding=Sharding(shards=3))
    pack_records(
        tmp_path / "files" / "whole",
        tmp_path / "cut",
        PackOptions(sharding=Sharding(shards=3)),
        workers=1,
    )
    merge_records([tmp_path / "shards"], tmp_path / "again")
    for made, expected in (("shards", tmp_path / "cut"), ("again", whole)):
        for name, content in contents(expected).items():
            if name.startswith(("train", "property", "classes")):
                assert (tmp_path / made / name).read_bytes() == content, name


def test_payloads_keep_all_but_their_first_label_and_their_key(tmp_path: Path) -> None:
    image = b"in " + MAGIC_BYTES * 3 + b" parts" + MAGIC_BYTES * 2
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        with RecordWriter(tmp_path / name / "train.rec") as writer:
            writer.write(3, pack_record([0, 0.25, -7], 99, image, id2=5))
            writer.write(4, pack_record([1], 99, image))
            writer.write(5, pack_record(2, 99, image))
    merge_records([tmp_path / "a", tmp_path / "b"], tmp_path / "out", layout="plain")
    file = RecordFile(tmp_path / "out" / "train.rec")
    records = [unpack_record(file.read(offset)) for offset in file.scan().tolist()]
    assert [record.labels.tolist() for record in records] == [
        [0, 0.25, -7], [1], [2], [3, 0.25, -7], [4], [5]
    ]  # fmt: skip
    assert [record.is_list for record in records] == [True, True, False] * 2
    assert [(record.id, record.id2) for record in records] == [
        (0, 5), (1, 0), (2, 0), (3, 5), (4, 0), (5, 0)
    ]  # fmt: skip
    assert {bytes(record.image) for record in records} == {image}
    assert not (tmp_path / "out" / "property").exists()  # the size of such images is unknown


def test_files_of_mxnet_are_merged(tmp_path: Path) -> None:
    names = ("insightface_header", "im2rec_headerless", "two_value_labels")
    assert merge_records([RECORDS / name for name in names], tmp_path / "out")[0] == 72
    merged, at = labelled(tmp_path / "out"), 0
    for name in names:
        images = labelled(RECORDS / name)
        expected = sorted(shifted(images, merged[at][0]), key=lambda pair: pair[0])
        assert merged[at : at + 24] == expected
        at += 24


def test_labels_with_gaps_are_refused_or_renumbered(tmp_path: Path) -> None:
    sources = [RECORDS / "gappy_keys_and_labels", tmp_path / "copy"]
    shutil.copytree(sources[0], sources[1])
    with pytest.raises(NumberingError, match=r"gappy_keys_and_labels: .* 1, "):
        merge_records(sources, tmp_path / "out")
    assert merge_records(sources, tmp_path / "out", remap_labels=True) == (16, 8)
    mapping = json.loads((tmp_path / "out" / MAPPING).read_text())
    assert [source["labels"] for source in mapping["sources"]] == [[0, 3, 7, 12]] * 2


def test_no_sources_and_an_output_that_exists_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - there is nothing to name
        merge_records([], tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(OutputFolderError, match=str(tmp_path / "out")):
        merge_records([RECORDS / "insightface_header"], tmp_path / "out")


def test_nothing_is_left_when_a_record_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    content = bytearray((RECORDS / "im2rec_headerless" / "train.rec").read_bytes())
    index = (RECORDS / "im2rec_headerless" / "train.idx").read_text()
    (tmp_path / "in" / "train.idx").write_text(index)
    offset = int(index.splitlines()[3].split("\t")[1])
    content[offset : offset + 4] = b"oops"
    (tmp_path / "in" / "train.rec").write_bytes(content)
    with pytest.raises(RecordError, match=rf"in/train\.rec, key 3, offset {offset}"):
        merge_records([tmp_path / "in"], tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sources = [str(RECORDS / name) for name in ("insightface_header", "two_value_labels")]
    arguments = [str(tmp_path / "out"), *sources, "--shards", "2"]
    assert main(arguments) == 0
    assert re.match(rf"{arguments[0]} .*48 .*12 .*{MAPPING}", capsys.readouterr().out)
    assert main(arguments) == 1
    assert "error: " in capsys.readouterr().err
