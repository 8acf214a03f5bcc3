import csv
import os
import re
from pathlib import Path

import numpy as np
import pytest

from data.files import OutputFolderError
from data.pairs.bin_file import PairFileError, read_pair_file, write_pair_file
from data.pairs.lists import (
    Pair,
    PairListError,
    pack_pair_list,
    read_pair_list,
    unpack_pair_file,
)
from tests.conftest import picture

BINS = Path(__file__).parents[2] / "fixtures" / "bins"


def write_list(folder: Path, rows: list[str]) -> Path:
    """Write a list, and an image file for every path in it."""
    for row in rows:
        for name in row.split(",")[:2]:
            if name.endswith(".jpg"):
                identity, _, number = name.removesuffix(".jpg").partition("_")
                (folder / name).write_bytes(picture(int(identity), int(number), 8))
    (folder / "pairs.csv").write_text("\n".join(rows) + "\n")
    return folder / "pairs.csv"


def rows_of(kinds: str) -> list[str]:
    """Return a row per letter: s for a pair of one person, d for one of two."""
    return [f"{i}_0.jpg,{i + 500 * (k == 'd')}_1.jpg,{int(k == 's')}" for i, k in enumerate(kinds)]


def test_a_list_with_and_without_names_and_folds(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text('a b.jpg, c.jpg ,1\n\n"d,e.jpg",f/g.jpg,FALSE\n', encoding="utf-8-sig")
    expected = [Pair("a b.jpg", "c.jpg", True), Pair("d,e.jpg", "f/g.jpg", False)]
    assert read_pair_list(path) == expected
    path.write_text("Path_A,path_b,same,fold\na,b,true,3\nä,b,0,x\n", encoding="utf-8")
    assert read_pair_list(path) == [Pair("a", "b", True, "3"), Pair("ä", "b", False, "x")]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"a,b,1\na,b\n", "line 2: .*'a,b',.* path_a,path_b,same "),
        (b"a,b,yes\n", "line 1: .*'a,b,yes'"),
        (b"one,two,same\n", "line 1: .*'one,two,same'"),
        (b"a,b,1,2\na,b,1\n", "line 2: .* path_a,path_b,same,fold"),
        (b"a,b,1,\n", "line 1"),
        (b"a,,1\n", "line 1"),
        (b"a,b,1,2,3\n", "line 1"),
        (b"path_a,path_b,same\n", "path_a,path_b,same"),
        (b"", "path_a,path_b,same"),
        (b"\xff\xfe\x00", "path_a,path_b,same"),
    ],
)
def test_other_lists_are_refused(tmp_path: Path, content: bytes, found: str) -> None:
    (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(PairListError, match=rf"x\.csv.*{found}"):
        read_pair_list(tmp_path / "x.csv")


@pytest.mark.parametrize(
    "name", ["\0.jpg", "a\x1b[31m.jpg", "x" * 256, "d/" * 2050 + "x", "y" * 200_000]
)
def test_a_path_that_no_file_has_is_refused_with_its_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "pairs.csv").write_text(f"1_1.jpg,1_2.jpg,1\n1_1.jpg,{name},1\n")
    with pytest.raises(PairListError, match=r"pairs\.csv.* line [12]\b") as caught:
        read_pair_list(tmp_path / "pairs.csv")
    assert str(caught.value).isprintable()


def test_pairs_of_even_folds_keep_their_order(tmp_path: Path) -> None:
    rows = rows_of("ssdd" + "dsds" * 9)
    steps: list[tuple[int, int]] = []
    written = pack_pair_list(
        write_list(tmp_path, rows),
        tmp_path,
        tmp_path / "set.bin",
        progress=lambda done, total: steps.append((done, total)),
    )
    pairs = read_pair_file(tmp_path / "set.bin")
    assert (written.pairs, written.same, written.images, written.remarks) == (40, 20, 80, ())
    assert pairs.same.tolist() == [row.endswith(",1") for row in rows]
    names = [name for row in rows for name in row.split(",")[:2]]
    assert [bytes(image) for image in pairs.images] == [(tmp_path / n).read_bytes() for n in names]
    assert steps == [(done, 80) for done in range(1, 81)]


def test_other_pairs_are_spread_over_the_folds(tmp_path: Path) -> None:
    written = pack_pair_list(
        write_list(tmp_path, rows_of("s" * 20 + "d" * 20)), tmp_path, tmp_path / "set.bin"
    )
    same = read_pair_file(tmp_path / "set.bin").same
    assert same.reshape(10, 4).sum(axis=1).tolist() == [2] * 10
    assert len(written.remarks) == 1


def test_stated_folds_are_kept_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    rows = [f"{row},{(number * 7) % 10 + 1}" for number, row in enumerate(rows_of("sd" * 10))]
    rows = sorted(rows, key=lambda row: row.split(",")[1][::-1])  # any order
    write_list(tmp_path, rows)
    with pytest.raises(PairListError, match=r"pairs\.csv: 10 .* 10 .* 10 folds .*--uneven"):
        pack_pair_list(tmp_path / "pairs.csv", tmp_path, tmp_path / "set.bin")
    pack_pair_list(tmp_path / "pairs.csv", tmp_path, tmp_path / "set.bin", uneven=True)
    pairs = read_pair_file(tmp_path / "set.bin")
    expected = sorted(rows, key=lambda row: int(row.split(",")[3]))
    assert [bytes(image) for image in pairs.images[::2]] == [
        (tmp_path / row.split(",")[0]).read_bytes() for row in expected
    ]


@pytest.mark.parametrize(
    ("kinds", "values"),
    [
        ("s" * 20 + "d" * 30, "20 .* 30 .* 10 folds .*--uneven"),
        ("sd" * 11, "11 .* 11 .* 10 folds .*--uneven"),
        ("s" * 20, "20 .* 0 .* 10 folds"),
        ("sdsd", "2 .* 2 .* 10 folds"),
    ],
)
def test_pairs_without_even_folds_are_refused(tmp_path: Path, kinds: str, values: str) -> None:
    path = write_list(tmp_path, rows_of(kinds))
    with pytest.raises(PairListError, match=rf"pairs\.csv: {values}"):
        pack_pair_list(path, tmp_path, tmp_path / "set.bin")
    assert not (tmp_path / "set.bin").exists()


def test_uneven_folds_are_spread_if_they_are_allowed(tmp_path: Path) -> None:
    path = write_list(tmp_path, rows_of("s" * 20 + "d" * 33))
    pack_pair_list(path, tmp_path, tmp_path / "set.bin", uneven=True)
    same = read_pair_file(tmp_path / "set.bin").same
    assert (len(same), same.sum()) == (53, 20)
    assert all(1 <= fold.sum() <= 3 for fold in np.array_split(same, 10))


@pytest.mark.parametrize(("column", "sizes"), [("001122", "2, 2, 2"), ("0001", "3, 1")])
def test_stated_folds_of_other_sizes_are_refused(tmp_path: Path, column: str, sizes: str) -> None:
    rows = [f"{row},{f}" for row, f in zip(rows_of("sdsdsd"), column, strict=False)]
    path = write_list(tmp_path, rows)
    with pytest.raises(PairListError, match=rf"\[{sizes}\] .* 2 folds of "):
        pack_pair_list(path, tmp_path, tmp_path / "set.bin", folds=2)


def test_images_that_are_missing_or_damaged_are_named(tmp_path: Path) -> None:
    path = write_list(tmp_path, rows_of("sd" * 10))
    image = (tmp_path / "3_0.jpg").read_bytes()
    (tmp_path / "3_0.jpg").write_bytes(image[:-30])
    with pytest.raises(PairListError, match=r"3_0\.jpg: "):
        pack_pair_list(path, tmp_path, tmp_path / "set.bin")
    (tmp_path / "3_0.jpg").unlink()
    with pytest.raises(PairListError, match=r"3_0\.jpg: "):
        pack_pair_list(path, tmp_path, tmp_path / "set.bin")
    os.mkfifo(tmp_path / "3_0.jpg")
    with pytest.raises(PairListError, match=r"3_0\.jpg: "):
        pack_pair_list(path, tmp_path, tmp_path / "set.bin")


def test_there_are_remarks_on_pairs_of_little_value(tmp_path: Path) -> None:
    rows = rows_of("sd" * 9)
    rows += ["0_0.jpg,0_0.jpg,1", "501_1.jpg,1_0.jpg,0"]
    written = pack_pair_list(write_list(tmp_path, rows), tmp_path, tmp_path / "set.bin")
    alone, repeated = written.remarks
    assert alone.startswith("1 pairs ")
    assert repeated.startswith("1 pairs ")


@pytest.mark.parametrize("count", [20, 47])
def test_a_set_comes_back_byte_for_byte(tmp_path: Path, count: int) -> None:
    images = [picture(i // 3, i % 3, 8) for i in range(2 * count)]
    for copy in (7, 12, 13):
        images[copy] = bytes(bytearray(images[0]))  # another object
    same = np.random.default_rng(0).permutation(np.arange(count) % 2 == 0)
    write_pair_file(tmp_path / "first.bin", images, same)
    written = unpack_pair_file(tmp_path / "first.bin", tmp_path / "out")
    assert (written.pairs, written.same, written.images) == (count, same.sum(), 2 * count - 3)
    assert len(os.listdir(tmp_path / "out" / "images")) == 2 * count - 3
    assert (tmp_path / "out" / "images" / "000002.jpg").read_bytes() == images[2]
    packed = pack_pair_list(
        tmp_path / "out" / "pairs.csv", tmp_path / "out", tmp_path / "second.bin", uneven=True
    )
    assert len(packed.remarks) == 1
    assert (tmp_path / "second.bin").read_bytes() == (tmp_path / "first.bin").read_bytes()


@pytest.mark.parametrize("name", ["py2_list", "numpy_arrays"])
def test_the_images_of_published_sets_come_back(tmp_path: Path, name: str) -> None:
    source = read_pair_file(BINS / f"{name}.bin")
    unpack_pair_file(source.path, tmp_path / "out")
    with (tmp_path / "out" / "pairs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["same"] for row in rows] == [str(int(same)) for same in source.same]
    assert [row["fold"] for row in rows] == sorted(
        str(i * 10 // len(rows)) for i in range(len(rows))
    )
    pack_pair_list(
        tmp_path / "out" / "pairs.csv", tmp_path / "out", tmp_path / "x.bin", uneven=True
    )
    again = read_pair_file(tmp_path / "x.bin")
    assert [bytes(image) for image in again.images] == [bytes(image) for image in source.images]
    assert again.same.tolist() == source.same.tolist()


def test_invalid_arguments_for_unpacking_are_refused(tmp_path: Path) -> None:
    write_pair_file(tmp_path / "set.bin", [b"1", b"2"], [True])
    with pytest.raises(PairListError, match=r"set\.bin: 10 folds of 1 pairs"):
        unpack_pair_file(tmp_path / "set.bin", tmp_path / "out")
    with pytest.raises(OutputFolderError, match=re.escape(str(tmp_path))):
        unpack_pair_file(tmp_path / "set.bin", tmp_path, folds=1)
    with pytest.raises(PairFileError, match=r"absent\.bin"):
        unpack_pair_file(tmp_path / "absent.bin", tmp_path / "out")
    assert not (tmp_path / "out").exists()
