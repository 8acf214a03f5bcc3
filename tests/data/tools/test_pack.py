import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import simplejpeg

from data.datasets.dataset import DatasetError, ImageDataset, open_dataset, open_records
from data.files import WriteError
from data.records.format import MAGIC_BYTES, unpack_record
from data.records.index import open_index
from data.records.reader import RecordFile
from data.records.writer import write_face_records
from data.tools.pack import SKIPPED, BadFile, PackOptions, PackReport, pack_records
from data.tools.pack_job import MANIFEST
from data.tools.record_set import CLASSES, Sharding
from scripts.pack_records import main
from tests.data.image_samples import contents, encode, people

COUNTS = {"Zoë": 3, "a b": 1, "c": 5}
PACKED = {"train.rec", "train.idx", "property", CLASSES, MANIFEST}


def pack(source: Path, output: Path, *, skip_bad: bool = False, **options: Any) -> PackReport:
    return pack_records(source, output, PackOptions(**options), workers=1, skip_bad=skip_bad)


def images_of(records: Path) -> list[tuple[int, bytes]]:
    found = open_records(records)
    order = found.in_storage_order().tolist()
    return [(int(found.labels[i]), bytes(found.record(i).image)) for i in order]


def test_a_folder_becomes_what_the_public_sets_are(tmp_path: Path) -> None:
    made = people(tmp_path / "in", COUNTS, size=24)
    report = pack(tmp_path / "in", tmp_path / "out")
    assert report == PackReport(images=9, classes=3, skipped=0, resumed_at=0, made=True)
    assert {path.name for path in (tmp_path / "out").iterdir()} == PACKED
    assert json.loads((tmp_path / "out" / CLASSES).read_text()) == {"Zoë": 0, "a b": 1, "c": 2}
    assert (tmp_path / "out" / "property").read_text() == "3,24,24\n"

    dataset = open_dataset(tmp_path / "out")
    assert dataset.labels.tolist() == [0] * 3 + [1] + [2] * 5
    assert [bytes(dataset.encoded(i)) for i in range(9)] == [made[name] for name in sorted(made)]
    (tmp_path / "same").mkdir()
    write_face_records(tmp_path / "same", zip(dataset.labels.tolist(), made.values(), strict=True))
    for name in ("train.rec", "train.idx"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "same" / name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"layout": "plain", "shuffle": 3, "sharding": Sharding(shards=3)},
        {"size": 20, "encoding": "png", "sharding": Sharding(shard_bytes=20_000)},
    ],
)
def test_bytes_do_not_depend_on_the_number_of_workers(
    options: dict[str, Any], tmp_path: Path
) -> None:
    people(tmp_path / "in", {"a": 150, "b": 10, "c": 140})
    for workers in (1, 2):
        output = tmp_path / str(workers)
        pack_records(tmp_path / "in", output, PackOptions(**options), workers=workers)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


def test_a_list_keeps_its_order_in_the_plain_layout(tmp_path: Path) -> None:
    made = people(tmp_path, {"a": 2, "b": 2})
    names = ["b/001.jpg", "a/001.jpg", "b/000.jpg"]
    lines = [f"{7 - n}\t{int(name[0] == 'b')}\t{name}\n" for n, name in enumerate(names)]
    (tmp_path / "x.lst").write_text("".join(lines))
    pack(tmp_path / "x.lst", tmp_path / "plain", layout="plain")
    assert images_of(tmp_path / "plain") == [(int(n[0] == "b"), made[n]) for n in names]
    file = RecordFile(tmp_path / "plain" / "train.rec")
    assert open_index(file).keys.tolist() == [0, 1, 2]
    ids = [unpack_record(file.read(offset)).id for offset in file.scan().tolist()]
    assert ids == [0, 1, 2]
    assert not (tmp_path / "plain" / CLASSES).exists()  # the list has numbers, and they are used

    pack(tmp_path / "x.lst", tmp_path / "sorted")
    assert images_of(tmp_path / "sorted") == [
        (int(n[0] == "b"), made[n]) for n in (names[1], names[0], names[2])
    ]


LISTS = {
    "x.csv": 'path,label\n"b, c/001.jpg",ann\na/001.jpg,bob\n"b, c/000.jpg",ann\n',
    "x.TSV": "a/001.jpg\t1\nb, c/000.jpg\t0\na/000.jpg\t1\n",
    "x.txt": "b, c/001.jpg\t7\na/001.jpg\tann\nb, c/000.jpg\t10\n",
    "x.lst": "9\t2.0\t0.5\ta/001.jpg\n4\t0.0\t1.5\tb, c/001.jpg\n7\t1.0\t3\ta/000.jpg\n",
}


@pytest.mark.parametrize("name", LISTS)
def test_a_list_packs_to_what_trains_from_it(name: str, tmp_path: Path) -> None:
    people(tmp_path, {"a": 2, "b, c": 2})
    (tmp_path / name).write_text(LISTS[name])
    trained = open_dataset(tmp_path / name)
    pack(tmp_path / name, tmp_path / "plain", layout="plain")
    assert_same(trained, tmp_path / "plain", np.arange(3))
    pack(tmp_path / name, tmp_path / "sorted")
    assert_same(trained, tmp_path / "sorted", np.argsort(trained.labels, kind="stable"))


def test_labels_with_gaps_are_refused_or_renumbered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    people(tmp_path, {"a": 3})
    (tmp_path / "x.csv").write_text("a/000.jpg,10\na/001.jpg,9\na/002.jpg,10\n")
    arguments = [str(tmp_path / "x.csv"), str(tmp_path / "out"), "--layout", "plain"]
    assert main(arguments) == 1
    assert re.match(r"error: .*x\.csv: .* 0, ", capsys.readouterr().err)
    assert main([*arguments, "--remap-labels"]) == 0
    assert_same(open_dataset(tmp_path / "x.csv", remap_labels=True), tmp_path / "out", np.arange(3))


def test_a_folder_packs_to_what_trains_from_it(tmp_path: Path) -> None:
    people(tmp_path / "in", {"b": 2, "a": 3, "B": 1})
    for name in ("list.txt", "0.jpg", "a/x.gif", "a/.y.jpg"):
        (tmp_path / "in" / name).write_bytes(b"no image")
    (tmp_path / "in" / "b" / "000.jpg").rename(tmp_path / "in" / "b" / "9.JPEG")
    trained = open_dataset(tmp_path / "in")
    assert len(trained) == 6
    for layout in ("plain", "identity"):
        pack(tmp_path / "in", tmp_path / layout, layout=layout)
        assert_same(trained, tmp_path / layout, np.arange(6))


def assert_same(trained: ImageDataset, packed: Path, order: npt.NDArray[np.int64]) -> None:
    """Assert that records hold what trains from files, in `order`, with the same classes."""
    records = open_dataset(packed)
    assert records.labels.tolist() == trained.labels[order].tolist()
    expected = [bytes(trained.encoded(index)) for index in order.tolist()]
    assert [bytes(records.encoded(index)) for index in range(len(records))] == expected
    names = packed / CLASSES
    assert (json.loads(names.read_text()) if names.exists() else None) == (
        trained.class_mapping and {str(name): c for name, c in trained.class_mapping.items()}
    )


def test_every_seed_gives_another_shuffle(tmp_path: Path) -> None:
    people(tmp_path / "in", {"a": 20, "b": 20})
    pack(tmp_path / "in", tmp_path / "plain", layout="plain")
    plain = images_of(tmp_path / "plain")
    orders = []
    for seed in (0, 1):
        pack(tmp_path / "in", tmp_path / str(seed), layout="plain", shuffle=seed)
        orders.append(images_of(tmp_path / str(seed)))
        assert sorted(orders[-1]) == sorted(plain)
    assert orders[0] != orders[1] != plain != orders[0]


def test_shards_by_number_are_equal_and_read_on_their_own(tmp_path: Path) -> None:
    people(tmp_path / "in", COUNTS)
    pack(tmp_path / "in", tmp_path / "one")
    pack(tmp_path / "in", tmp_path / "out", sharding=Sharding(shards=4))
    files = sorted((tmp_path / "out").glob("*.rec"))
    assert [file.name for file in files] == [f"train-{i:05d}.rec" for i in range(4)]
    shards = [open_dataset(file, remap_labels=True) for file in files]
    assert [len(shard) for shard in shards] == [3, 2, 2, 2]
    assert [shard.num_classes for shard in shards] == [1, 2, 1, 1]
    assert images_of(tmp_path / "out") == images_of(tmp_path / "one")


@pytest.mark.parametrize("layout", ["identity", "plain"])
def test_shards_by_size_hold_as_much_as_fits(layout: str, tmp_path: Path) -> None:
    made = people(tmp_path / "in", {"a": 10, "b": 1, "c": 9})
    (tmp_path / "in" / "b" / "large.png").write_bytes(large := encode("PNG", size=96))
    pack(tmp_path / "in", tmp_path / "out", layout=layout, sharding=Sharding(shard_bytes=3000))
    sizes = [file.stat().st_size for file in sorted((tmp_path / "out").glob("*.rec"))]
    overflowing = [size for size in sizes if size > 3000]
    assert len(overflowing) == 1  # the large image has a shard to itself
    assert overflowing[0] - len(large) < 3000
    one_more = max(map(len, made.values())) + 100
    full = [size for size in sizes[:-1] if size > 3000 - one_more]
    assert len(full) >= len(sizes) - 3  # but for the last, and the one before the large image
    assert [image for _, image in images_of(tmp_path / "out")][:10] == list(made.values())[:10]


@pytest.mark.parametrize("layout", ["identity", "plain"])
def test_one_image_is_a_set(layout: str, tmp_path: Path) -> None:
    people(tmp_path / "in", {"only": 1})
    pack(tmp_path / "in", tmp_path / "out", layout=layout)
    dataset = open_dataset(tmp_path / "out")
    assert (len(dataset), dataset.num_classes) == (1, 1)


def test_images_of_every_format_and_mode_are_kept_byte_for_byte(tmp_path: Path) -> None:
    formats = [("PNG", "RGB"), ("PNG", "RGBA"), ("PNG", "L"), ("JPEG", "L"), ("JPEG", "CMYK")]
    formats += [("WEBP", "RGB"), ("BMP", "RGB")]
    (tmp_path / "in" / "a").mkdir(parents=True)
    expected = [encode(kind, mode=mode, seed=i) for i, (kind, mode) in enumerate(formats)]
    expected.append(encode() + b"...." + MAGIC_BYTES * 3)  # a record of several parts
    expected.append(encode() + bytes(range(256)) * 1000)  # read in several pieces
    for number, content in enumerate(expected):
        (tmp_path / "in" / "a" / f"{number}.bmp").write_bytes(content)  # any suffix
    pack(tmp_path / "in", tmp_path / "out")
    assert [image for _, image in images_of(tmp_path / "out")] == expected
    pack(tmp_path / "in", tmp_path / "made", size=12, encoding="jpeg")
    for _, image in images_of(tmp_path / "made"):
        assert (
            simplejpeg.decode_jpeg_header(image)[:3] == (12, 12, "RGB") or image[:2] == b"\xff\xd8"
        )
        assert simplejpeg.decode_jpeg(image).shape == (12, 12, 3)


BAD = {
    "empty.jpg": (b"", "empty"),
    "notes.jpg": (b"some words\n", "b'some words"),
    "half.jpg": (encode(size=64)[:900], "jpg .* 900 "),
    "half.png": (encode("PNG", size=64)[:-4], "png "),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_stop_the_pack_with_their_names(name: str, tmp_path: Path) -> None:
    people(tmp_path / "in", COUNTS)
    content, found = BAD[name]
    (tmp_path / "in" / "a b" / name).write_bytes(content)
    with pytest.raises(BadFile, match=rf"in/a b/{name} .*{found}.*--skip-bad"):
        pack(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    people(tmp_path, {"a": 1})
    (tmp_path / "a" / "link.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "x.tsv").write_text("a/000.jpg\t0\na/nope.jpg\t0\n")
    with pytest.raises(BadFile, match=r"a/nope\.jpg "):
        pack(tmp_path / "x.tsv", tmp_path / "out")
    (tmp_path / "x.tsv").unlink()
    shutil.rmtree(tmp_path / "out.partial")
    with pytest.raises(BadFile, match=r"a/link\.jpg "):
        pack(tmp_path, tmp_path / "elsewhere" / "out")


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs a device without an end")
def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    people(tmp_path / "in", {"a": 1})
    os.mkfifo(tmp_path / "in" / "a" / "pipe.jpg")
    (tmp_path / "in" / "a" / "zero.jpg").symlink_to("/dev/zero")
    dataset = open_dataset(tmp_path / "in")
    for index, name in ((1, "pipe"), (2, "zero")):
        with pytest.raises(DatasetError, match=rf"{name}\.jpg "):
            dataset.encoded(index)
    report = pack_records(
        tmp_path / "in", tmp_path / "out", PackOptions(), skip_bad=True, workers=1
    )
    assert (report.images, report.skipped) == (1, 2)


@pytest.mark.parametrize("change", [700, -5, 1])
def test_files_that_grow_or_shrink_after_they_were_found_are_read_whole(
    change: int, tmp_path: Path
) -> None:
    people(tmp_path / "in", {"a": 300})
    last = tmp_path / "in" / "a" / "299.jpg"
    content = last.read_bytes()
    later = content + bytes(change) if change > 0 else content[:change] + b"\xff\xd9"

    def replace(done: int, total: int) -> None:
        if done < total:
            last.write_bytes(later)

    pack_records(tmp_path / "in", tmp_path / "out", PackOptions(), progress=replace)
    assert images_of(tmp_path / "out")[-1][1] == later


def test_bad_files_are_left_out_and_listed_on_request(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = people(tmp_path / "in", COUNTS)
    (tmp_path / "in" / "only bad").mkdir()
    for name, (content, _) in BAD.items():
        (tmp_path / "in" / "only bad" / name).write_bytes(content)
    report = pack(tmp_path / "in", tmp_path / "out", skip_bad=True)
    assert (report.images, report.classes, report.skipped) == (9, 4, 4)
    assert [image for _, image in images_of(tmp_path / "out")] == [made[n] for n in sorted(made)]
    listed = (tmp_path / "out" / SKIPPED).read_text().splitlines()
    assert [line.split("\t")[0] for line in listed] == [f"only bad/{name}" for name in sorted(BAD)]
    assert "empty" in listed[0].split("\t")[1]
    (warning,) = caplog.records
    assert warning.args == (1, 3, "only bad")


def test_a_disk_without_room_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "in" / "a").mkdir(parents=True)
    with (tmp_path / "in" / "a" / "huge.jpg").open("wb") as file:
        file.truncate(1 << 43)  # takes no room itself: it is all one hole
    with pytest.raises(WriteError, match=r"out: 8,796,\d+,\d+,\d+ "):
        pack(tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"layout": "sorted"}, "layout is 'sorted': .*identity, plain"),
        ({"shuffle": 1}, "shuffle is 1 .*layout identity"),
        ({"encoding": "gif"}, "encoding is 'gif': .*jpeg, png"),
        ({"size": 0}, "size is 0"),
        ({"quality": 101}, "quality is 101"),
        ({"sharding": Sharding(shards=10)}, "9 .* 10 "),
        ({"layout": "plain", "shuffle": -1}, "seed is -1"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    options: dict[str, Any], named: str, tmp_path: Path
) -> None:
    people(tmp_path / "in", COUNTS)
    with pytest.raises(ValueError, match=named):
        pack(tmp_path / "in", tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_nothing_but_bad_files_is_no_set(tmp_path: Path) -> None:
    (tmp_path / "in" / "a").mkdir(parents=True)
    (tmp_path / "in" / "a" / "x.jpg").touch()
    with pytest.raises(BadFile, match=r"x\.jpg .* 1 "):
        pack(tmp_path / "in", tmp_path / "out", skip_bad=True)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    people(tmp_path / "in", COUNTS)
    arguments = [str(tmp_path / "in"), str(tmp_path / "out"), "--workers", "1"]
    assert main([*arguments, "--shuffle", "3", "--shard-size", "2k", "--size", "20"]) == 0
    assert re.match(rf"{arguments[1]} .*9 .*3 ", capsys.readouterr().out)
    assert np.bincount(open_records(tmp_path / "out").labels).tolist() == [3, 1, 5]
    assert main([*arguments, "--shuffle", "3", "--shard-size", "2k", "--size", "20"]) == 0
    assert re.match(rf"{arguments[1]} .*9 .*3 ", capsys.readouterr().out)
    for wrong in (["--shard-size", "2x"], ["--layout", "identity", "--shuffle", "3"], []):
        assert main([*arguments, *wrong]) == 1
        assert "error: " in capsys.readouterr().err
