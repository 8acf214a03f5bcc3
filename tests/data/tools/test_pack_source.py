import os
from pathlib import Path

import numpy as np
import pytest

from data.datasets.class_ids import NumberingError
from data.records.locations import DatasetError
from data.tools.pack_source import open_pack_source
from tests.data.image_samples import people


def test_a_folder_gives_the_images_and_classes_of_training(tmp_path: Path) -> None:
    people(tmp_path, {"b": 2, "a": 1})
    source = open_pack_source(tmp_path)
    assert list(source.files.paths) == ["a/000.jpg", "b/000.jpg", "b/001.jpg"]
    assert source.labels.tolist() == [0, 1, 1]
    assert (source.class_names, source.num_classes) == (["a", "b"], 2)
    assert source.sizes.tolist() == [
        (tmp_path / name).stat().st_size for name in source.files.paths
    ]
    assert source.paths(np.array([1])) == [str(tmp_path / "b" / "000.jpg")]


def test_a_list_gives_classes_from_0_on(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"image")
    listed = tmp_path / "x.CSV"
    listed.write_text("b.jpg,1\na.jpg,0\nc.gif,1\n")
    source = open_pack_source(listed)
    assert list(source.files.paths) == ["b.jpg", "a.jpg", "c.gif"]
    assert source.labels.tolist() == [1, 0, 1]
    assert source.class_names is None
    assert source.sizes.tolist() == [0, 5, 0]  # missing files are found when they are read

    listed.write_text("b.jpg,10\na.jpg,9\n")
    with pytest.raises(NumberingError, match=r"x\.CSV: .* 0, .* 9 .*remap_labels"):
        open_pack_source(listed)
    source = open_pack_source(listed, remap_labels=True)
    assert source.labels.tolist() == [1, 0]
    assert source.class_names == ["9", "10"]

    listed.write_text("b.jpg,n10\na.jpg,9\n")
    source = open_pack_source(listed)
    assert source.labels.tolist() == [1, 0]
    assert source.class_names == ["9", "n10"]


def test_paths_of_a_list_can_be_relative_to_another_folder(tmp_path: Path) -> None:
    people(tmp_path / "faces", {"a": 1})
    (tmp_path / "x.tsv").write_text("a/000.jpg\t0\n")
    source = open_pack_source(tmp_path / "x.tsv", root=tmp_path / "faces")
    assert source.sizes[0] == (tmp_path / "faces" / "a" / "000.jpg").stat().st_size
    with pytest.raises(DatasetError, match=r"x\.tsv.* 1 .*/a/000\.jpg.*--root"):
        open_pack_source(tmp_path / "x.tsv")
    with pytest.raises(DatasetError, match=str(tmp_path / "faces")):
        open_pack_source(tmp_path / "faces", root=tmp_path)


def test_what_is_neither_a_folder_of_images_nor_a_list_is_refused(tmp_path: Path) -> None:
    people(tmp_path, {"a": 1})
    (tmp_path / "train.rec").touch()
    for name in ("nowhere", "a/000.jpg", "", "train.rec"):
        with pytest.raises(DatasetError, match=rf"{tmp_path / name} .*\.lst"):
            open_pack_source(tmp_path / name)


def test_the_digest_depends_on_names_labels_sizes_times_and_order(tmp_path: Path) -> None:
    people(tmp_path, {"a": 2, "b": 1})
    source = open_pack_source(tmp_path)
    before = source.digest(source.labels * 0).hexdigest()

    def now() -> str:
        found = open_pack_source(tmp_path)
        return found.digest(found.labels * 0).hexdigest()

    assert now() == before
    first = tmp_path / "a" / "000.jpg"
    status = first.stat()
    os.utime(first, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert now() != before
    os.utime(first, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert now() == before
    first.rename(tmp_path / "a" / "00.jpg")
    assert now() != before
    order = source.labels.argsort()
    assert source.digest(order).hexdigest() != source.digest(order[::-1]).hexdigest()
    added = source.digest(order[:1])
    added.update(source.fingerprint(order[1:]))
    assert added.hexdigest() == source.digest(order).hexdigest()
