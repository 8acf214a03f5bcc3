import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.datasets.class_ids import NumberingError
from data.datasets.dataset import open_dataset, open_records
from data.order.orders import GlobalOrder
from data.records.format import MAGIC_BYTES, pack_record, unpack_record
from data.records.index import open_index
from data.records.reader import RecordFile
from data.records.writer import RecordWriter
from data.tools.pack import PackOptions, pack_records
from data.tools.record_set import CLASSES, Sharding
from data.tools.shuffle import _OVERHEAD, _bucket_bounds, shuffle_records
from scripts.shuffle_records import main
from tests.data.image_samples import contents, people

RECORDS = Path(__file__).parents[2] / "fixtures" / "recordio"


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    people(tmp_path / "files", {"a": 20, "b": 1, "c": 40})
    pack_records(
        tmp_path / "files", tmp_path / "in", PackOptions(sharding=Sharding(shards=2)), workers=1
    )
    return tmp_path / "in"


def test_the_order_is_that_of_the_first_epoch(packed: Path, tmp_path: Path) -> None:
    assert shuffle_records(packed, tmp_path / "out", seed=7) == (61, 3)
    before, after = open_records(packed), open_dataset(tmp_path / "out")
    order = GlobalOrder(61, 7).order(0, 61)[0]
    assert after.labels.tolist() == before.labels[order].tolist()
    assert [bytes(after.encoded(i)) for i in range(61)] == [
        bytes(before.record(i).image) for i in order.tolist()
    ]
    assert contents(tmp_path / "out")[CLASSES] == (packed / CLASSES).read_bytes()
    assert contents(tmp_path / "out")["property"] == (packed / "property").read_bytes()


def test_keys_ids_and_offsets_all_rise(packed: Path, tmp_path: Path) -> None:
    shuffle_records(packed, tmp_path / "out", seed=7)
    file = RecordFile(tmp_path / "out" / "train.rec")
    index = open_index(file)
    assert index.keys.tolist() == list(range(61))
    assert index.offsets.tolist() == file.scan().tolist()
    assert [unpack_record(file.read(o)).id for o in index.offsets.tolist()] == list(range(61))


@pytest.mark.slow
@pytest.mark.parametrize("memory", [1 << 20, 20_000, 4_000, 1])
@pytest.mark.parametrize("cut", [Sharding(), Sharding(shards=4), Sharding(shard_bytes=5000)])
def test_bytes_do_not_depend_on_the_memory(
    memory: int, cut: Sharding, packed: Path, tmp_path: Path
) -> None:
    shuffle_records(packed, tmp_path / "out", seed=1, sharding=cut, memory_bytes=memory)
    shuffle_records(packed, tmp_path / "expected", seed=1, sharding=cut)
    assert contents(tmp_path / "out") == contents(tmp_path / "expected")


def test_memory_is_bounded_by_buckets_on_the_disk(packed: Path, tmp_path: Path) -> None:
    sizes = open_records(packed).image_sizes() + _OVERHEAD
    bounds = _bucket_bounds(sizes, 4000)
    buckets = [int(sizes[a:b].sum()) for a, b in pairwise(bounds)]
    assert max(buckets) <= 4000
    assert len(buckets) <= 2 * sizes.sum() / 4000 + 1
    assert bounds[0] == 0
    assert bounds[-1] == len(sizes)


def test_payloads_keep_all_but_their_key(tmp_path: Path) -> None:
    image = MAGIC_BYTES + b"in " + MAGIC_BYTES * 3 + b" parts"
    with RecordWriter(tmp_path / "x.rec") as writer:
        for key in range(5):
            writer.write(key, pack_record([key, 0.5], 77, image + bytes(key), id2=6))
    shuffle_records(tmp_path / "x.rec", tmp_path / "out", seed=0, memory_bytes=1)
    file = RecordFile(tmp_path / "out" / "train.rec")
    records = [unpack_record(file.read(offset)) for offset in file.scan().tolist()]
    order = GlobalOrder(5, 0).order(0, 5)[0].tolist()
    assert [record.labels.tolist() for record in records] == [[key, 0.5] for key in order]
    assert [bytes(record.image) for record in records] == [image + bytes(key) for key in order]
    assert [(record.id, record.id2) for record in records] == [(key, 6) for key in range(5)]


@pytest.mark.parametrize("name", ["insightface_header", "im2rec_headerless", "mixed_encodings"])
def test_files_of_mxnet_are_shuffled(name: str, tmp_path: Path) -> None:
    shuffle_records(RECORDS / name, tmp_path / "out", seed=2, memory_bytes=9000)
    before, after = open_dataset(RECORDS / name), open_dataset(tmp_path / "out")
    pairs = [
        sorted((int(d.labels[i]), bytes(d.encoded(i))) for i in range(len(d)))
        for d in (before, after)
    ]
    assert pairs[0] == pairs[1]
    assert not np.array_equal(before.labels, after.labels)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"seed": -1}, "seed is -1"),
        ({"seed": 0, "sharding": Sharding(shards=25)}, "24 .* 25 "),
    ],
)
def test_numbers_that_make_no_sense_are_refused(
    options: dict[str, Any], named: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=named):
        shuffle_records(RECORDS / "insightface_header", tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


def test_too_little_memory_is_refused_with_what_is_enough(tmp_path: Path) -> None:
    with RecordWriter(tmp_path / "x.rec") as writer:
        for key in range(600):
            writer.write(key, pack_record(0, key, bytes(100)))
    with pytest.raises(ValueError, match=r"memory_bytes is 1: 600 .* \d+$") as refusal:
        shuffle_records(tmp_path / "x.rec", tmp_path / "out", seed=0, memory_bytes=1)
    enough = int(str(refusal.value).rpartition(" ")[2])
    shuffle_records(tmp_path / "x.rec", tmp_path / "out", seed=0, memory_bytes=enough)


def test_labels_with_gaps_are_refused_or_renumbered(tmp_path: Path) -> None:
    gappy = RECORDS / "gappy_keys_and_labels"
    with pytest.raises(NumberingError, match=r"gappy_keys_and_labels: .* 1, "):
        shuffle_records(gappy, tmp_path / "out", seed=0)
    assert shuffle_records(gappy, tmp_path / "out", seed=0, remap_labels=True) == (8, 4)


def test_command(packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(packed), str(tmp_path / "out"), "--seed", "3", "--memory", "8k"]
    assert main(arguments) == 0
    assert re.match(rf"{arguments[1]} .*61 .*3 ", capsys.readouterr().out)
    assert main(arguments) == 1
    assert f"error: {arguments[1]} " in capsys.readouterr().err
