import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from data.datasets.class_ids import NumberingError
from data.datasets.dataset import DatasetError, FaceDataset, ImageDataset, open_dataset
from data.datasets.sources import RecordImages
from data.records.format import RecordError, pack_record
from data.records.writer import RecordWriter, write_face_records

RECORDS = Path(__file__).parents[2] / "fixtures" / "recordio"
EXPECTED = json.loads((RECORDS / "expected.json").read_text())
GAPPY = RECORDS / "gappy_keys_and_labels"


def keys_of(dataset: ImageDataset) -> list[int]:
    (source,) = dataset.sources
    assert isinstance(source, RecordImages)
    return list(source.keys)


def check_images(dataset: FaceDataset, size: int = 112) -> None:
    for index in range(len(dataset)):
        height, width, _, _ = simplejpeg.decode_jpeg_header(dataset.encoded(index))
        assert (height, width) == (size, size)


@pytest.mark.parametrize("name", ["insightface_header", "im2rec_headerless", "two_value_labels"])
def test_layouts_of_mxnet_are_read(name: str) -> None:
    dataset = open_dataset(RECORDS / name)
    first_key = 0 if name == "im2rec_headerless" else 1
    assert keys_of(dataset) == list(range(first_key, first_key + 24))
    assert dataset.labels.tolist() == EXPECTED[name]["labels"]
    assert dataset.num_classes == EXPECTED[name]["identities"]
    assert dataset.class_mapping is None
    check_images(dataset)


def test_labels_with_gaps_are_refused_or_numbered_afresh() -> None:
    with pytest.raises(NumberingError, match=r"gappy_keys_and_labels: .*no image has 1,"):
        open_dataset(GAPPY)
    dataset = open_dataset(GAPPY, remap_labels=True)
    assert keys_of(dataset) == EXPECTED[GAPPY.name]["keys"]
    assert dataset.labels.tolist() == [0, 0, 1, 1, 2, 2, 2, 3]
    assert dataset.num_classes == 4
    assert dataset.class_mapping == {0: 0, 3: 1, 7: 2, 12: 3}
    check_images(dataset)


def test_a_record_file_is_opened_by_its_own_name_too() -> None:
    dataset = open_dataset(RECORDS / "insightface_header" / "train.rec")
    assert len(dataset) == 24
    place = rf"{RECORDS}/insightface_header/train.rec, key 3, offset 3728"
    assert dataset.describe(2) == place


@pytest.mark.parametrize("name", ["insightface_header", "two_value_labels", "im2rec_headerless"])
def test_without_an_index_the_same_dataset_is_found(name: str, tmp_path: Path) -> None:
    shutil.copy(RECORDS / name / "train.rec", tmp_path)
    with_index, without = open_dataset(RECORDS / name), open_dataset(tmp_path)
    assert without.labels.tolist() == with_index.labels.tolist()
    assert [bytes(without.encoded(i)) for i in range(24)] == [
        bytes(with_index.encoded(i)) for i in range(24)
    ]


def test_a_header_record_after_its_images_is_found_without_index(tmp_path: Path) -> None:
    write_face_records(tmp_path, [(0, b"an"), (0, b"image"), (1, b"x")])
    (tmp_path / "train.idx").unlink()
    dataset = open_dataset(tmp_path)
    assert dataset.labels.tolist() == [0, 0, 1]
    assert [bytes(dataset.encoded(i)) for i in range(3)] == [b"an", b"image", b"x"]


def test_the_storage_order_is_that_of_the_records_in_the_file(tmp_path: Path) -> None:
    with RecordWriter(tmp_path / "train.rec") as writer:
        for key in (2, 0, 3, 1):
            writer.write(key, pack_record(0, key, b"image %d" % key))
    index = tmp_path / "train.idx"
    written = open_dataset(tmp_path)
    assert written.storage_order() is None
    assert bytes(written.encoded(0)) == b"image 2"
    index.write_text("".join(sorted(index.read_text().splitlines(keepends=True))))
    by_key = open_dataset(tmp_path)
    assert bytes(by_key.encoded(0)) == b"image 0"
    stored = by_key.storage_order()
    assert stored is not None
    assert stored.tolist() == [2, 0, 3, 1]


def test_an_image_is_a_view_of_the_file() -> None:
    image = open_dataset(RECORDS / "insightface_header").encoded(0)
    assert isinstance(image, memoryview)
    assert image.readonly


def test_a_record_that_changed_while_open_is_refused(tmp_path: Path) -> None:
    with RecordWriter(tmp_path / "train.rec") as writer:
        offsets = [writer.write(k, pack_record(k, k, b"image")) for k in range(3)]
    dataset = open_dataset(tmp_path)
    with (tmp_path / "train.rec").open("r+b") as file:
        file.seek(offsets[2] + 8)
        file.write(pack_record(0, 2, b"other"))
    assert bytes(dataset.encoded(1)) == b"image"
    with pytest.raises(RecordError, match=r"key 2, offset 80: found label 0 .* expected label 2"):
        dataset.encoded(2)
    with (tmp_path / "train.rec").open("r+b") as file:
        file.seek(offsets[2] + 8)
        file.write(b"\xff\xff\xff\xff")  # the number of labels
    message = (
        r"key 2, offset 80: found a payload of 29 bytes .* at least 17179869204; expected label 2"
    )
    with pytest.raises(RecordError, match=message):
        dataset.encoded(2)


def test_a_folder_with_one_sub_folder_an_identity_is_read(tmp_path: Path) -> None:
    files = ["b/2.jpg", "b/10.png", "a/x.webp"]
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    dataset = open_dataset(tmp_path)
    assert contents(dataset) == ["a/x.webp", "b/10.png", "b/2.jpg"]
    assert dataset.labels.tolist() == [0, 1, 1]
    assert dataset.labels.dtype == np.int32
    assert dataset.num_classes == 2
    assert dataset.class_mapping == {"a": 0, "b": 1}
    assert dataset.describe(1) == str(tmp_path / "b" / "10.png")

    os.truncate(tmp_path / "b" / "10.png", 1 << 40)  # a hole, which takes no room on the disk
    with pytest.raises(DatasetError, match=r"10\.png has 1099511627776 bytes: expected .* at most"):
        dataset.encoded(1)
    (tmp_path / "a" / "x.webp").unlink()
    with pytest.raises(DatasetError, match=r"a/x\.webp cannot be read.*moved"):
        dataset.encoded(0)


@pytest.mark.parametrize("kind", ["records", "remapped", "folder", "list", "merged"])
def test_datasets_go_to_worker_processes(kind: str, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.jpg").write_bytes(b"image")
    (tmp_path.parent / "list.csv").write_text(f"{tmp_path.name}/a/x.jpg,0\n")
    datasets = {
        "records": [RECORDS / "im2rec_headerless"],
        "remapped": [GAPPY],
        "folder": [tmp_path],
        "list": [tmp_path.parent / "list.csv"],
        "merged": [RECORDS / "im2rec_headerless", GAPPY, tmp_path],
    }
    dataset = open_dataset(datasets[kind], remap_labels=True)
    pickled = pickle.dumps(dataset)
    copy = pickle.loads(pickled)
    assert len(pickled) < 1500 * len(dataset.sources)  # tables, no images
    assert copy.labels.tolist() == dataset.labels.tolist()
    assert copy.class_mapping == dataset.class_mapping
    assert copy.num_classes == dataset.num_classes
    for index in (0, len(dataset) - 1):
        assert bytes(copy.encoded(index)) == bytes(dataset.encoded(index))
        assert copy.describe(index) == dataset.describe(index)


@pytest.mark.parametrize(
    ("files", "name", "message"),
    [
        ([], "nowhere", r"nowhere does not exist: expected a \.rec file, a pattern"),
        ([], "x.rec", r"x\.rec does not exist"),
        (["x.zip"], "x.zip", r"x\.zip is none of what can be read: expected a \.rec file"),
        (["b.rec", "a.rec"], "", r"has no train\.rec; "),
        ([], "", r"holds no sub-folders .* expected one sub-folder .* or train\.rec"),
        (["train.rec"], "", r"train\.rec is empty"),
    ],
)
def test_what_is_no_dataset_is_refused(
    files: list[str], name: str, message: str, tmp_path: Path
) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    with pytest.raises(ValueError, match=message):
        open_dataset(tmp_path / name)


def records(path: Path, labels: list[int], *, header: bool = False) -> Path:
    """Write images that say which file and row they are; classes sorted if there is a header."""
    path.parent.mkdir(exist_ok=True)
    with RecordWriter(path) as writer:
        first = int(header)
        for key, label in enumerate(labels, start=first):
            writer.write(key, pack_record(label, key, f"{path.name} {key - first}".encode()))
        if header:
            writer.write(0, pack_record([len(labels) + 1] * 2, 0, b""))
    return path


def contents(dataset: FaceDataset) -> list[str]:
    return [bytes(dataset.encoded(index)).decode() for index in range(len(dataset))]


@pytest.mark.parametrize("header", [True, False])
def test_shards_are_one_dataset_with_one_set_of_labels(header: bool, tmp_path: Path) -> None:
    records(tmp_path / "train-1.rec", [0, 0, 3], header=header)
    records(tmp_path / "train-2.rec", [1], header=header)
    records(tmp_path / "train-3.rec", [2, 3], header=header)
    dataset = open_dataset(tmp_path / "train-*.rec")
    assert dataset.labels.tolist() == [0, 0, 3, 1, 2, 3]
    assert dataset.labels.dtype == np.int32
    assert dataset.num_classes == 4
    assert dataset.class_mapping is None
    assert contents(dataset) == [
        "train-1.rec 0",
        "train-1.rec 1",
        "train-1.rec 2",
        "train-2.rec 0",
        "train-3.rec 0",
        "train-3.rec 1",
    ]
    assert dataset.describe(4).startswith(f"{tmp_path}/train-3.rec, key {int(header)}, offset ")


def test_gaps_are_those_of_all_shards_together(tmp_path: Path) -> None:
    records(tmp_path / "train-1.rec", [0, 5])
    records(tmp_path / "train-2.rec", [7, 5])
    pattern = tmp_path / "train-*.rec"
    with pytest.raises(NumberingError, match=r"train-\*\.rec: .* has 1, the next label is 5"):
        open_dataset(pattern)
    dataset = open_dataset(pattern, remap_labels=True)
    assert dataset.labels.tolist() == [0, 1, 2, 1]
    assert dataset.class_mapping == {0: 0, 5: 1, 7: 2}


def test_classes_of_merged_datasets_follow_each_other(tmp_path: Path) -> None:
    first = records(tmp_path / "first.rec", [1, 0, 1])
    (tmp_path / "people" / "ann").mkdir(parents=True)
    (tmp_path / "people" / "ann" / "x.jpg").write_bytes(b"ann's")
    records(tmp_path / "shards" / "1.rec", [0])
    records(tmp_path / "shards" / "2.rec", [1])
    names = [str(first), str(tmp_path / "people"), str(tmp_path / "shards" / "*.rec")]
    dataset = open_dataset(names)
    assert dataset.labels.tolist() == [1, 0, 1, 2, 3, 4]
    assert dataset.num_classes == 5
    assert contents(dataset)[2:] == ["first.rec 2", "ann's", "1.rec 0", "2.rec 0"]
    assert dataset.class_mapping == {
        names[0]: {0: 0, 1: 1},
        names[1]: {"ann": 2},
        names[2]: {0: 3, 1: 4},
    }


def test_merged_by_name_the_same_label_is_the_same_class(tmp_path: Path) -> None:
    for person, image in (("ann", "1"), ("cyd", "1")):
        (tmp_path / "old" / person).mkdir(parents=True)
        (tmp_path / "old" / person / f"{image}.jpg").write_bytes(f"old {person}".encode())
    for person in ("bob", "cyd"):
        (tmp_path / "new" / person).mkdir(parents=True)
        (tmp_path / "new" / person / "1.jpg").write_bytes(f"new {person}".encode())
    names = [str(tmp_path / "old"), str(tmp_path / "new")]
    dataset = open_dataset(names, merge="by_name")
    assert contents(dataset) == ["old ann", "old cyd", "new bob", "new cyd"]
    assert dataset.labels.tolist() == [0, 2, 1, 2]
    assert dataset.num_classes == 3
    assert dataset.class_mapping == {names[0]: {"ann": 0, "cyd": 2}, names[1]: {"bob": 1, "cyd": 2}}


def test_a_dataset_is_refused_twice_whatever_its_name(tmp_path: Path) -> None:
    path = records(tmp_path / "a.rec", [0])
    (tmp_path / "link.rec").symlink_to(path)
    with pytest.raises(DatasetError, match=r"link\.rec is in the dataset twice.*as .*/a\.rec"):
        open_dataset([path, tmp_path / "link.rec"])
    with pytest.raises(DatasetError, match=r"a\.rec is in the dataset twice"):
        open_dataset([tmp_path / "[a].rec", path], merge="by_name")
    with pytest.raises(DatasetError, match="at least one location"):
        open_dataset([])


def test_a_root_of_lists_needs_a_list(tmp_path: Path) -> None:
    path = records(tmp_path / "a.rec", [0])
    with pytest.raises(DatasetError, match=r"list_root is .*a\.rec has no list file"):
        open_dataset(path, list_root=tmp_path)


def test_labels_of_a_large_single_file_are_not_copied(tmp_path: Path) -> None:
    records(tmp_path / "a.rec", [0, 1] * 6000)
    dataset = open_dataset(tmp_path / "a.rec")
    assert (tmp_path / "a.idx.cache").exists()
    assert not dataset.labels.flags.writeable
    assert dataset.labels.base is not None
    assert len(pickle.dumps(dataset)) < 2000
