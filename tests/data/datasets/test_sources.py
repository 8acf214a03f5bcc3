from pathlib import Path

import pytest

from data.datasets.folders import FolderImages, ListImages
from data.datasets.sources import RecordImages, open_sources
from data.records.format import pack_record
from data.records.locations import DatasetError
from data.records.writer import RecordWriter, write_face_records


def write_shards(folder: Path, *names: str) -> None:
    for name in names:
        with RecordWriter(folder / f"{name}.rec") as writer:
            writer.write(0, pack_record(0, 0, b"image"))


def test_shards_of_different_layouts_are_refused(tmp_path: Path) -> None:
    write_face_records(tmp_path, [(0, b"image")])
    write_shards(tmp_path, "other")
    message = r"/train\.rec has a header record, \S+/other\.rec has none; .* one by one in data\.tr"
    with pytest.raises(DatasetError, match=rf"\*\.rec mixes layouts: \S+{message}"):
        open_sources(tmp_path / "*.rec")


@pytest.mark.parametrize("named", ["", "train-*.rec"])
def test_shards_are_opened_one_by_one(named: str, tmp_path: Path) -> None:
    write_shards(tmp_path, "train-00001", "train-00000")
    sources = open_sources(tmp_path / named)
    assert [Path(source.location).stem for source in sources] == ["train-00000", "train-00001"]


def test_each_kind_of_location_has_its_reader(tmp_path: Path) -> None:
    (tmp_path / "people" / "ann").mkdir(parents=True)
    (tmp_path / "people" / "ann" / "1.jpg").write_bytes(b"image")
    (tmp_path / "list.txt").write_text("people/ann/1.jpg\tann\n")
    write_shards(tmp_path, "train", "train-[1]")
    kinds = {
        "train.rec": RecordImages,
        "train-[1].rec": RecordImages,
        "people": FolderImages,
        "list.txt": ListImages,
        "": RecordImages,
    }
    for name, kind in kinds.items():
        (source,) = open_sources(tmp_path / name)
        assert type(source) is kind


def test_a_list_is_read_from_its_folder_or_from_a_root(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    (tmp_path / "a.jpg").write_bytes(b"upper")
    (tmp_path / "lists" / "a.jpg").write_bytes(b"lower")
    path = tmp_path / "lists" / "x.lst"
    path.write_text(f"0\t0\ta.jpg\n1\t0\t{tmp_path}/lists/../a.jpg\n")
    (beside,) = open_sources(path)
    assert [bytes(beside.encoded(index)) for index in (0, 1)] == [b"lower", b"upper"]
    (rooted,) = open_sources(path, list_root=tmp_path)
    assert bytes(rooted.encoded(0)) == b"upper"
    assert rooted.describe(0) == f"{tmp_path}/a.jpg"
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(DatasetError, match=r"/a\.jpg cannot be read.*moved"):
        rooted.encoded(0)


def test_a_list_whose_files_lie_elsewhere_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "0.jpg").write_bytes(b"image")
    (tmp_path / "x.csv").write_text("".join(f"{n}.jpg,0\n" for n in range(300)))
    message = r"x\.csv: image 4 of 300, \S+/3\.jpg, does not exist: .*data\.list_root"
    with pytest.raises(DatasetError, match=message):
        open_sources(tmp_path / "x.csv")
