import json
import re
import shutil
from pathlib import Path

import pytest

from data.datasets.class_ids import NumberingError
from data.files import OutputFolderError
from data.records.format import RecordError, pack_record
from data.records.writer import RecordWriter
from data.tools.pack import PackOptions, pack_records
from data.tools.record_set import CLASSES, Sharding
from data.tools.unpack import LIST, unpack_records
from scripts.unpack_records import main
from tests.data.image_samples import contents, encode, people

RECORDS = Path(__file__).parents[2] / "fixtures" / "recordio"
COUNTS = {'"Bo" Li': 3, "a b, c": 1, "dé": 12}


def pack(source: Path, output: Path, options: PackOptions) -> Path:
    pack_records(source, output, options, workers=1)
    return output


@pytest.mark.parametrize("cut", [Sharding(), Sharding(shards=3)])
@pytest.mark.parametrize("named", [True, False])
def test_packing_what_was_unpacked_gives_the_same_records(
    cut: Sharding, named: bool, tmp_path: Path
) -> None:
    made = people(tmp_path / "in", COUNTS)
    options = PackOptions(sharding=cut)
    packed = pack(tmp_path / "in", tmp_path / "packed", options)
    if not named:
        (packed / CLASSES).unlink()
    assert unpack_records(packed, tmp_path / "files") == (16, 3)
    found = contents(tmp_path / "files")
    images = [name for name in sorted(found) if name.endswith(".jpg")]
    folders = list(COUNTS) if named else ["0", "1", "2"]
    assert [name.split("/")[0] for name in images] == [
        *[folders[0]] * 3, folders[1], *[folders[2]] * 12
    ]  # fmt: skip
    assert [found[name] for name in images] == [made[name] for name in sorted(made)]

    expected = {name: b for name, b in contents(packed).items() if name.startswith("train")}
    for number, source in enumerate((tmp_path / "files", tmp_path / "files" / LIST)):
        again = contents(pack(source, tmp_path / str(number), options))
        assert {name: b for name, b in again.items() if name.startswith("train")} == expected


def test_shuffled_records_are_restored_from_their_list(tmp_path: Path) -> None:
    people(tmp_path / "in", COUNTS)
    packed = pack(tmp_path / "in", tmp_path / "packed", PackOptions(layout="plain", shuffle=4))
    unpack_records(packed, tmp_path / "files")
    assert contents(tmp_path / "files")[CLASSES] == (packed / CLASSES).read_bytes()
    again = pack(tmp_path / "files" / LIST, tmp_path / "again", PackOptions(layout="plain"))
    for name in ("train.rec", "train.idx"):
        assert (again / name).read_bytes() == (packed / name).read_bytes()


def test_names_of_files_are_keys_and_their_suffixes_the_contents(tmp_path: Path) -> None:
    with RecordWriter(tmp_path / "x.rec") as writer:
        for key, kind in ((700, "PNG"), (5, "JPEG"), (61, "WEBP"), (8, "BMP")):
            writer.write(key, pack_record([0, 1], key, encode(kind)))
    unpack_records(tmp_path / "x.rec", tmp_path / "out")
    lines = (tmp_path / "out" / LIST).read_text().splitlines()
    assert lines == ["0/700.png\t0", "0/005.jpg\t0", "0/061.webp\t0", "0/008.bmp\t0"]
    assert set(contents(tmp_path / "out")) == {LIST, *(line.split("\t")[0] for line in lines)}


def test_labels_with_gaps_are_refused_or_renumbered(tmp_path: Path) -> None:
    gappy = RECORDS / "gappy_keys_and_labels"
    with pytest.raises(NumberingError, match=r"gappy_keys_and_labels: .* 1, "):
        unpack_records(gappy, tmp_path / "out")
    assert unpack_records(gappy, tmp_path / "out", remap_labels=True) == (8, 4)


@pytest.mark.parametrize(
    "name", ["../up", "a/b", "", ".", "..", ".hidden", "a\tb", "a\nb", "\x9b", "\ud800", "x" * 300]
)
def test_class_names_that_cannot_be_folders_are_refused(name: str, tmp_path: Path) -> None:
    packed = pack_people(tmp_path)
    (packed / CLASSES).write_text(json.dumps({name: 0}))
    with pytest.raises(RecordError, match=rf"{CLASSES}: .*{re.escape(repr(name))}"):
        unpack_records(packed, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def pack_people(folder: Path) -> Path:
    people(folder / "in", {"a": 2})
    return pack(folder / "in", folder / "packed", PackOptions())


def test_an_image_of_unknown_format_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    with RecordWriter(tmp_path / "x.rec") as writer:
        writer.write(3, pack_record(0, 3, encode()))
        writer.write(4, pack_record(0, 4, b"no image"))
    with pytest.raises(RecordError, match=r"x\.rec, key 4, offset \d+: .*8 .*b'no image'"):
        unpack_records(tmp_path / "x.rec", tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"x.rec", "x.idx"}


@pytest.mark.parametrize("name", ["out", "out.partial"])
def test_other_contents_are_refused_and_left_alone(name: str, tmp_path: Path) -> None:
    packed = pack_people(tmp_path)
    (tmp_path / name).mkdir()
    (tmp_path / name / "mine.txt").write_text("precious")
    with pytest.raises(OutputFolderError, match=f"{tmp_path / name} "):
        unpack_records(packed, tmp_path / "out")
    assert (tmp_path / name / "mine.txt").read_text() == "precious"


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    packed = pack_people(tmp_path)
    (tmp_path / "out").mkdir()
    unpack_records(packed, tmp_path / "out")
    assert len(contents(tmp_path / "out")) == 4


def test_nothing_is_left_after_an_interruption(tmp_path: Path) -> None:
    packed = pack_people(tmp_path)
    shutil.rmtree(tmp_path / "in")

    def interrupt(done: int, total: int) -> None:
        assert (done, total) == (2, 2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unpack_records(packed, tmp_path / "out", progress=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["packed"]


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packed = pack_people(tmp_path)
    assert main([str(packed), str(tmp_path / "out")]) == 0
    assert re.match(rf"{tmp_path / 'out'} .*2 .*1 .*{LIST}", capsys.readouterr().out)
    assert main([str(packed), str(tmp_path / "out")]) == 1
    assert "error: " in capsys.readouterr().err
