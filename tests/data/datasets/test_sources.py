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
    with pytest.raises(DatasetError, match=r"\*\.rec .*/train\.rec .*/other\.rec .*data\.train"):
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
