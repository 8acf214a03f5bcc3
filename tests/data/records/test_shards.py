import re
from pathlib import Path

import pytest

from data.records.locations import DatasetError
from data.records.shards import find_records


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / f"{name}.rec").touch()


@pytest.mark.parametrize(
    ("names", "pattern"),
    [
        (["train-00000-of-00002", "train-00001-of-00002"], "train-*.rec"),
        (["train-1-of-2", "train-2-of-2"], "train-*.rec"),
        (["part9", "part10", "part11"], "part*.rec"),
        (["a1", "a3", "b7"], "*.rec"),  # not one series
        (["one", "two"], "*.rec"),
        (["x-2", "x-3.left", "x-9.left"], "*.rec"),
        (["7"], "*.rec"),
    ],
)
def test_a_pattern_stands_for_its_shards(names: list[str], pattern: str, tmp_path: Path) -> None:
    touch(tmp_path, *names)
    found = find_records(tmp_path / pattern)
    assert found == [tmp_path / f"{name}.rec" for name in sorted(names)]


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        (["train-00", "train-01", "train-04"], r"2 .*: train-02\.rec, train-03\.rec;"),
        (["train-9", "train-11"], r"1 .*: train-10\.rec"),
        (["a1-0-of-3", "a1-2-of-3"], r"2 shards.*: a1-1-of-3\.rec"),
        (["x-00-of-03", "x-01-of-03"], r": x-02-of-03\.rec"),
        (["x-01-of-03", "x-02-of-03"], r": x-00-of-03\.rec"),
        (["x-02-of-03", "x-03-of-03"], r": x-01-of-03\.rec"),
        (["x3.faces", "x5.faces"], r": x4\.faces\.rec"),
        (["x0", "x9"], r"8 .*: x1\.rec, x2\.rec, .*x5\.rec … \(8 "),
        (["x1", f"x{10**15}"], rf"x6\.rec … \({10**15 - 2} "),
    ],
)
def test_missing_shards_are_named(names: list[str], missing: str, tmp_path: Path) -> None:
    touch(tmp_path, *names)
    with pytest.raises(DatasetError, match=missing):
        find_records(tmp_path / "*.rec")


def test_a_pattern_that_matches_nothing_or_other_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"train-\*\.rec "):
        find_records(tmp_path / "train-*.rec")
    touch(tmp_path, "train-1", "train-2")
    (tmp_path / "train-1.idx").touch()
    with pytest.raises(DatasetError, match=r"train-\* .*: \S+train-1\.idx;"):
        find_records(tmp_path / "train-*")


def test_a_file_stands_for_itself(tmp_path: Path) -> None:
    touch(tmp_path, "train-[1]", "train-2")
    assert find_records(tmp_path / "train-[1].rec") == [tmp_path / "train-[1].rec"]


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["train", "other", "train-x"], ["train"]),
        (["train-00001", "train-00000", "val"], ["train-00000", "train-00001"]),
        (["train-0-of-2", "train-1-of-2"], ["train-0-of-2", "train-1-of-2"]),
    ],
)
def test_a_folder_stands_for_its_train_rec_or_its_shards(
    names: list[str], found: list[str], tmp_path: Path
) -> None:
    touch(tmp_path, *names)
    assert find_records(tmp_path) == [tmp_path / f"{name}.rec" for name in found]


@pytest.mark.parametrize(
    ("names", "values"),
    [
        ([], r"train-00000\.rec"),
        (["b", "a"], r"train\.rec; .*/\*\.rec\): a\.rec, b\.rec"),
        (["train", "train-0"], r"train\.rec .*/train-\[0-9\]\*\.rec\): train-0\.rec, train\.rec"),
        (["train-00000", "train-00002"], r"2 shards.* 1 .*: train-00001\.rec"),
    ],
)
def test_a_folder_without_one_dataset_is_refused(
    names: list[str], values: str, tmp_path: Path
) -> None:
    touch(tmp_path, *names)
    with pytest.raises(DatasetError, match=rf"^{re.escape(str(tmp_path))} .*{values}"):
        find_records(tmp_path)


def test_other_files_and_missing_ones_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"nowhere\.rec "):
        find_records(tmp_path / "nowhere.rec")
    (tmp_path / "train.idx").touch()
    with pytest.raises(DatasetError, match=r"train\.idx "):
        find_records(tmp_path / "train.idx")
