import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import simplejpeg

from data.datasets.dataset import ImageDataset, open_dataset
from data.records.format import MAGIC_BYTES, unpack_record
from data.records.index import open_index
from data.records.reader import RecordFile
from data.records.writer import write_face_records
from data.tools import pack_job
from data.tools.pack import SKIPPED, PackOptions, PackReport, pack_records
from data.tools.pack_job import MANIFEST
from data.tools.record_set import CLASSES, Cut, RecordSet
from scripts.pack_records import main
from tests.data.image_samples import contents, encode, people

ROOT = Path(__file__).parents[3]
COUNTS = {"Zoë": 3, "a b": 1, "c": 5}
PACKED = {"train.rec", "train.idx", "property", CLASSES, MANIFEST}


def pack(source: Path, output: Path, *, skip_bad: bool = False, **options: Any) -> PackReport:
    return pack_records(source, output, PackOptions(**options), workers=1, skip_bad=skip_bad)


def images_of(records: Path) -> list[tuple[int, bytes]]:
    found = RecordSet(records)
    order = found.in_file_order().tolist()
    return [(int(found.labels[i]), bytes(found.read(i).image)) for i in order]


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


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"layout": "plain", "shuffle": 3, "cut": Cut(shards=3)},
        {"size": 20, "encoding": "png", "cut": Cut(shard_bytes=20_000)},
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


def test_labels_with_gaps_are_refused_or_numbered_afresh(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    people(tmp_path, {"a": 3})
    (tmp_path / "x.csv").write_text("a/000.jpg,10\na/001.jpg,9\na/002.jpg,10\n")
    arguments = [str(tmp_path / "x.csv"), str(tmp_path / "out"), "--layout", "plain"]
    assert main(arguments) == 1
    assert "x.csv: the labels have gaps: no image has 0" in capsys.readouterr().err
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


def test_a_shuffle_is_another_for_every_seed(tmp_path: Path) -> None:
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
    pack(tmp_path / "in", tmp_path / "out", cut=Cut(shards=4))
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
    pack(tmp_path / "in", tmp_path / "out", layout=layout, cut=Cut(shard_bytes=3000))
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


def test_images_of_every_form_and_mode_are_kept_byte_for_byte(tmp_path: Path) -> None:
    forms = [("PNG", "RGB"), ("PNG", "RGBA"), ("PNG", "L"), ("JPEG", "L"), ("JPEG", "CMYK")]
    forms += [("WEBP", "RGB"), ("BMP", "RGB")]
    (tmp_path / "in" / "a").mkdir(parents=True)
    expected = [encode(kind, mode=mode, seed=i) for i, (kind, mode) in enumerate(forms)]
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
    "empty.jpg": (b"", "is empty: expected a JPEG"),
    "notes.jpg": (b"some words\n", "starts with b'some words"),
    "half.jpg": (encode(size=64)[:900], "is a jpg image cut short after 900 bytes"),
    "half.png": (encode("PNG", size=64)[:-4], "is a png image cut short"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_stop_the_pack_with_their_names(name: str, tmp_path: Path) -> None:
    people(tmp_path / "in", COUNTS)
    content, message = BAD[name]
    (tmp_path / "in" / "a b" / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"in/a b/{name} {message}.*--skip-bad"):
        pack(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    people(tmp_path, {"a": 1})
    (tmp_path / "a" / "link.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "x.tsv").write_text("a/000.jpg\t0\na/nope.jpg\t0\n")
    with pytest.raises(ValueError, match=r"a/nope\.jpg cannot be read: No such file"):
        pack(tmp_path / "x.tsv", tmp_path / "out")
    (tmp_path / "x.tsv").unlink()
    shutil.rmtree(tmp_path / "out.partial")
    with pytest.raises(ValueError, match=r"a/link\.jpg cannot be read: No such file"):
        pack(tmp_path, tmp_path / "elsewhere" / "out")


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
    assert "is empty" in listed[0]
    assert "1 classes have no image left, the first is 3 (only bad)" in caplog.text


def test_a_pack_goes_on_once_the_bad_file_is_replaced(tmp_path: Path) -> None:
    made = people(tmp_path / "in", {"a": 200, "b": 200})
    bad = tmp_path / "in" / "b" / "100.jpg"
    bad.write_bytes(b"bad")
    with pytest.raises(ValueError, match=r"b/100\.jpg starts with b'bad'.*run again"):
        pack(tmp_path / "in", tmp_path / "out")
    bad.write_bytes(made["b/100.jpg"])
    report = pack(tmp_path / "in", tmp_path / "out")
    assert (report.images, report.resumed_at) == (400, 300)
    pack(tmp_path / "in", tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert not (tmp_path / "out.partial").exists()


def test_a_pack_goes_on_leaving_out_what_stopped_it(tmp_path: Path) -> None:
    people(tmp_path / "in", {"a": 30})
    for number in (10, 20):
        (tmp_path / "in" / "a" / f"{number:03d}.jpg").write_bytes(b"bad")
    with pytest.raises(ValueError, match=r"010\.jpg"):
        pack(tmp_path / "in", tmp_path / "out")
    report = pack(tmp_path / "in", tmp_path / "out", skip_bad=True)
    assert (report.images, report.skipped, report.resumed_at) == (28, 2, 10)
    pack(tmp_path / "in", tmp_path / "whole", skip_bad=True)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


KILLED = """
import sys, time
from pathlib import Path
from data.tools.pack import PackOptions, pack_records
from data.tools.record_set import Cut

def wait(done, total):
    if done >= {stop}:
        print("here", flush=True)
        time.sleep(600)

options = PackOptions({options})
pack_records(Path("in"), Path("out"), options, workers={workers}, checkpoint_seconds={seconds},
             skip_bad=True, progress=wait)
"""


@pytest.mark.parametrize(
    ("options", "stop", "seconds", "workers", "resumed"),
    [
        ("", 500, 0, 1, 512),
        ("", 500, 3600, 1, 0),  # before any checkpoint
        ("cut=Cut(shard_bytes=20_000)", 250, 0, 2, 256),
        ("layout='plain', shuffle=5, cut=Cut(shards=7)", 256, 0, 1, 256),
        ("size=8, encoding='png'", 600, 0, 1, 600),  # all is written
    ],
)
def test_a_pack_that_was_killed_goes_on_to_the_same_bytes(
    options: str, stop: int, seconds: float, workers: int, resumed: int, tmp_path: Path
) -> None:
    people(tmp_path / "in", {"a": 250, "b": 50, "c": 300})
    for name in ("a/000.jpg", "b/010.jpg", "c/299.jpg"):
        (tmp_path / "in" / name).write_bytes(b"bad")
    code = KILLED.format(options=options, stop=stop, seconds=seconds, workers=workers)
    command = [sys.executable, "-c", code]
    environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"
        process.kill()
    assert not (tmp_path / "out").exists()

    pack_options = eval(f"PackOptions({options})")
    report = pack_records(tmp_path / "in", tmp_path / "out", pack_options, workers=1, skip_bad=True)
    assert (report.images, report.skipped, report.resumed_at) == (597, 3, resumed)
    pack_records(tmp_path / "in", tmp_path / "whole", pack_options, workers=1, skip_bad=True)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


class Cutter:
    """Ends a pack when it has come to `stop` images."""

    def __init__(self, stop: int) -> None:
        self.stop = stop

    def __call__(self, done: int, total: int) -> None:
        if done >= self.stop:
            raise KeyboardInterrupt


def cut_short(source: Path, output: Path, stop: int, **options: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        pack_records(
            source,
            output,
            PackOptions(**options),
            workers=1,
            skip_bad=True,
            checkpoint_seconds=0,
            progress=Cutter(stop),
        )


@pytest.mark.parametrize("stop", [256, 512])
def test_shards_finished_after_the_checkpoint_are_made_again(stop: int, tmp_path: Path) -> None:
    people(tmp_path / "in", {"a": 300, "b": 300})
    options: dict[str, Any] = {"cut": Cut(shards=12)}
    cut_short(tmp_path / "in", tmp_path / "out", stop, **options)
    state = (tmp_path / "out.partial" / MANIFEST).read_bytes()
    cut_short(tmp_path / "in", tmp_path / "out", 600, **options)
    # As a kill leaves it just before a checkpoint: the files are ahead of what is written down.
    (tmp_path / "out.partial" / MANIFEST).write_bytes(state)
    report = pack(tmp_path / "in", tmp_path / "out", **options)
    assert report.resumed_at == stop
    pack(tmp_path / "in", tmp_path / "whole", **options)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_files_of_an_older_end_do_not_stay(tmp_path: Path) -> None:
    people(tmp_path / "in", {"a": 300, "b": 300})
    options: dict[str, Any] = {"cut": Cut(shard_bytes=20_000)}
    cut_short(tmp_path / "in", tmp_path / "out", 256, **options)
    state = (tmp_path / "out.partial" / MANIFEST).read_bytes()
    cut_short(tmp_path / "in", tmp_path / "out", 600, **options)
    (tmp_path / "out.partial" / MANIFEST).write_bytes(state)
    shutil.rmtree(tmp_path / "in" / "b")
    pack(tmp_path / "in", tmp_path / "out", **options)
    pack(tmp_path / "in", tmp_path / "whole", **options)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_whole_pack_gets_its_name_where_that_was_all_that_was_missing(tmp_path: Path) -> None:
    people(tmp_path / "in", COUNTS)
    pack(tmp_path / "in", tmp_path / "out")
    before = contents(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "out.partial")
    assert not pack(tmp_path / "in", tmp_path / "out").made
    assert contents(tmp_path / "out") == before


def change_earlier(source: Path) -> None:
    (source / "a" / "001.jpg").write_bytes(encode(seed=99))


def remove_earlier(source: Path) -> None:
    (source / "a" / "001.jpg").unlink()


def remove_later(source: Path) -> None:
    (source / "b" / "299.jpg").unlink()


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (change_earlier, {}, "the first 512 images are not those that the earlier run packed"),
        (remove_earlier, {}, "the first 512 images are not those"),
        (remove_later, {"cut": Cut(shards=4)}, "images 600 then, 599 now"),
        (None, {"size": 8}, r"other options: size None then, 8 now; use the same"),
        (None, {"cut": Cut(shards=3)}, "'shards': None.* then, .*'shards': 3.* now"),
    ],
)
def test_going_on_with_something_else_is_refused(
    change: Callable[[Path], None] | None,
    options: dict[str, Any],
    message: str,
    tmp_path: Path,
) -> None:
    people(tmp_path / "in", {"a": 300, "b": 300})
    first = {} if change is None else options
    cut_short(tmp_path / "in", tmp_path / "out", 300, **first)
    if change is not None:
        change(tmp_path / "in")
    with pytest.raises(ValueError, match=message):
        pack(tmp_path / "in", tmp_path / "out", **options)


def test_nothing_is_left_of_a_pack_that_never_began(tmp_path: Path) -> None:
    people(tmp_path / "in", COUNTS)
    with pytest.raises(ValueError, match="9 images for 10 files"):
        pack(tmp_path / "in", tmp_path / "out", cut=Cut(shards=10))
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_what_was_killed_before_it_began_binds_to_no_options(tmp_path: Path) -> None:
    people(tmp_path / "in", COUNTS)
    (tmp_path / "out.partial").mkdir()
    manifest = {"options": {"layout": "plain"}, "progress": None}
    (tmp_path / "out.partial" / MANIFEST).write_text(json.dumps(manifest))
    assert pack(tmp_path / "in", tmp_path / "out").resumed_at == 0


def test_going_on_without_leaving_out_bad_files_is_refused(tmp_path: Path) -> None:
    people(tmp_path / "in", {"a": 300})
    (tmp_path / "in" / "a" / "001.jpg").write_bytes(b"bad")
    cut_short(tmp_path / "in", tmp_path / "out", 256)
    with pytest.raises(ValueError, match=r"left out 1 bad images; go on with --skip-bad"):
        pack(tmp_path / "in", tmp_path / "out")


def test_two_packs_into_one_folder_are_refused(tmp_path: Path) -> None:
    people(tmp_path / "in", COUNTS)

    def again(done: int, total: int) -> None:
        with pytest.raises(ValueError, match=r"out\.partial is in use"):
            pack(tmp_path / "in", tmp_path / "out")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack_records(tmp_path / "in", tmp_path / "out", PackOptions(), workers=1, progress=again)
    pack(tmp_path / "in", tmp_path / "out")


def test_a_pack_is_held_until_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    people(tmp_path / "in", COUNTS)
    publish = pack_job.publish

    def late(partial: Path, output: Path) -> None:
        other = pack_job.PackJob(output, {})  # has asked before whether the pack is finished
        with pytest.raises(pack_job.JobError, match="is in use"), other.begun():
            pass
        publish(partial, output)

    monkeypatch.setattr(pack_job, "publish", late)
    assert pack(tmp_path / "in", tmp_path / "out").made
    before = contents(tmp_path / "out")
    assert ".lock" not in before
    (tmp_path / "out" / ".lock").touch()  # killed before it was removed
    assert not pack(tmp_path / "in", tmp_path / "out").made
    assert contents(tmp_path / "out") == before


def test_a_pack_that_is_there_is_left_alone(tmp_path: Path) -> None:
    people(tmp_path / "in", COUNTS)
    pack(tmp_path / "in", tmp_path / "out")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert pack(tmp_path / "in", tmp_path / "out") == PackReport(9, 3, 0, 9, made=False)
    assert before == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    with pytest.raises(ValueError, match="other options: quality 95 then, 90 now"):
        pack(tmp_path / "in", tmp_path / "out", quality=90)
    change_of_source = tmp_path / "in" / "c" / "new.jpg"
    change_of_source.write_bytes(encode())
    with pytest.raises(ValueError, match=r"holds a pack of other images than .*in has now"):
        pack(tmp_path / "in", tmp_path / "out")
    change_of_source.unlink()
    (tmp_path / "out" / "train.idx").write_bytes(b"")
    with pytest.raises(ValueError, match=r"train\.idx has 0 bytes, expected \d+ bytes"):
        pack(tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize("name", ["out", "out.partial"])
def test_other_contents_are_refused_and_left_alone(name: str, tmp_path: Path) -> None:
    people(tmp_path / "in", COUNTS)
    (tmp_path / name).mkdir()
    (tmp_path / name / "mine.txt").write_text("precious")
    with pytest.raises(ValueError, match=f"{name} (holds something|is no pack).*choose another"):
        pack(tmp_path / "in", tmp_path / "out")
    assert (tmp_path / name / "mine.txt").read_text() == "precious"


@pytest.mark.parametrize("text", ["", "[1]", '{"files": {}}'])
def test_a_broken_manifest_is_named(text: str, tmp_path: Path) -> None:
    people(tmp_path / "in", COUNTS)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / MANIFEST).write_text(text)
    with pytest.raises(ValueError, match=r"pack\.json is not what a pack writes down"):
        pack(tmp_path / "in", tmp_path / "out")


def test_a_disk_without_room_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "in" / "a").mkdir(parents=True)
    with (tmp_path / "in" / "a" / "huge.jpg").open("wb") as file:
        file.truncate(1 << 43)  # takes no room itself: it is all one hole
    with pytest.raises(ValueError, match=r"out: 8,796,\d+,\d+,\d+ bytes are needed and .* free"):
        pack(tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "sorted"}, "layout is 'sorted': expected one of identity, plain"),
        ({"shuffle": 1}, "shuffle is 1 and layout identity"),
        ({"encoding": "gif"}, "encoding is 'gif': expected one of jpeg, png"),
        ({"size": 0}, "size is 0"),
        ({"quality": 101}, "quality is 101"),
        ({"cut": Cut(shards=10)}, "9 images for 10 files"),
        ({"layout": "plain", "shuffle": -1}, "seed is -1"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    people(tmp_path / "in", COUNTS)
    with pytest.raises(ValueError, match=message):
        pack(tmp_path / "in", tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_nothing_but_bad_files_is_no_set(tmp_path: Path) -> None:
    (tmp_path / "in" / "a").mkdir(parents=True)
    (tmp_path / "in" / "a" / "x.jpg").touch()
    with pytest.raises(ValueError, match=r"x\.jpg .*first of 1 files, of which none is"):
        pack(tmp_path / "in", tmp_path / "out", skip_bad=True)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    people(tmp_path / "in", COUNTS)
    arguments = [str(tmp_path / "in"), str(tmp_path / "out"), "--workers", "1"]
    assert main([*arguments, "--shuffle", "3", "--shard-size", "2k", "--size", "20"]) == 0
    assert "out holds 9 images of 3 identities\n" in capsys.readouterr().out
    assert np.bincount(RecordSet(tmp_path / "out").labels).tolist() == [3, 1, 5]
    assert main([*arguments, "--shuffle", "3", "--shard-size", "2k", "--size", "20"]) == 0
    assert "was packed before and is complete" in capsys.readouterr().out
    for wrong in (["--shard-size", "2x"], ["--layout", "identity", "--shuffle", "3"], []):
        assert main([*arguments, *wrong]) == 1
        assert "error: " in capsys.readouterr().err
