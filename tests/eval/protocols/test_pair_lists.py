import json
import shutil
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.datasets.dataset import DatasetError
from data.pairs.lists import PairListError
from eval.protocols.pair_lists import (
    PairList,
    pair_folder,
    read_agedb,
    read_calfw,
    read_cfp,
    read_csv,
    read_lfw,
)

FOLDER = Path(__file__).parents[2] / "fixtures" / "evaluation" / "pairs"
EXPECTED = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))

READERS: dict[str, Callable[[], PairList]] = {
    "pairs.txt": lambda: read_lfw(FOLDER / "pairs.txt"),
    "pairs_CALFW.txt": lambda: read_calfw(FOLDER / "pairs_CALFW.txt"),
    "pairs_CPLFW.txt": lambda: read_calfw(FOLDER / "pairs_CPLFW.txt"),
    "cfp_ff": lambda: read_cfp(FOLDER / "Protocol", "FF"),
    "cfp_fp": lambda: read_cfp(FOLDER / "Protocol", "FP"),
    "agedb_30": lambda: read_agedb(FOLDER / "04_FINAL_protocol_30_years.mat"),
}


@pytest.mark.parametrize("name", READERS)
def test_official_lists_have_the_pairs_of_the_reference_in_protocol_order(name: str) -> None:
    pairs, expected = READERS[name](), EXPECTED[name]
    found = [[pair.first, pair.second, int(pair.same)] for pair in pairs]
    if len(expected[0]) != 3 or isinstance(expected[0][0], list):  # given fold by fold
        sizes = [len(fold) for fold in expected]
        assert np.bincount([pair.fold or 0 for pair in pairs]).tolist() == sizes
        expected = [pair for fold in expected for pair in fold]
    assert found == expected
    assert [pair.fold for pair in pairs] == sorted(pair.fold or 0 for pair in pairs)
    assert len(set(pairs.images)) == len(pairs.images)
    pairs.check_folds()


def test_the_development_lists_of_lfw_have_no_folds(tmp_path: Path) -> None:
    path = tmp_path / "pairsDevTest.txt"
    path.write_bytes(b"1\r\nAn_A\t1\t12\r\nAn_A\t2\tBo_B\t1\r\n\r\n")
    pairs = read_lfw(path)
    assert list(pairs) == [
        ("An_A/An_A_0001.jpg", "An_A/An_A_0012.jpg", True, None),
        ("An_A/An_A_0002.jpg", "Bo_B/Bo_B_0001.jpg", False, None),
    ]
    pairs.check_folds()


@pytest.mark.parametrize(
    ("read", "content", "values"),
    [
        (read_lfw, "10 x\n", "line 1"),
        (read_lfw, "1 1\na 1 2\n", "1 pairs.* 2:"),
        (read_lfw, "1 1\na 1 2\n\na 1 b x\n", "line 4"),
        (read_lfw, "1 1\na 1 b 2\na 1 b 2\n", "line 2"),
        (read_lfw, "\n", "no lines"),
        (read_lfw, "10 0\n", "0 pairs"),
        (read_calfw, "a.jpg 0\nb.jpg 1\n", "line 1"),
        (read_calfw, "a.jpg 0\nb.jpg 0\nc.jpg 0\n", "3 lines, 0 pairs .* 1 "),
        (read_calfw, "a.jpg\nb.jpg\n", "line 1"),
        (read_agedb, "no matrix", "MATLAB"),
    ],
)
def test_other_lists_are_refused(
    tmp_path: Path, read: Callable[[Path], PairList], content: str, values: str
) -> None:
    path = tmp_path / "list.txt"
    path.write_text(content)
    with pytest.raises(ValueError, match=rf"list\.txt.*{values}"):
        read(path)
    with pytest.raises(ValueError, match=r"absent\.txt"):
        read(tmp_path / "absent.txt")


@pytest.mark.parametrize(
    ("file", "content", "values"),
    [
        ("Split/FP/03/diff.txt", "1,2\n51,1\n", r"diff\.txt, line 2: .*'51,1'.* 50 and 20"),
        ("Split/FP/03/same.txt", "1,21\n", r"same\.txt, line 1"),
        ("Split/FP/03/same.txt", "1\n", r"same\.txt, line 1"),
        ("Pair_list_P.txt", "1 ../a.jpg\n1 ../b.jpg\n", r"Pair_list_P\.txt, line 2"),
        ("Pair_list_F.txt", "1 ../../a.jpg\n", r"Pair_list_F\.txt, line 1"),
    ],
)
def test_numbers_without_an_image_are_refused(
    tmp_path: Path, file: str, content: str, values: str
) -> None:
    shutil.copytree(FOLDER / "Protocol", tmp_path / "Protocol")
    (tmp_path / "Protocol" / file).write_text(content)
    with pytest.raises(ValueError, match=values):
        read_cfp(tmp_path / "Protocol", "FP")


def test_a_protocol_without_its_folds_is_refused(tmp_path: Path) -> None:
    (tmp_path / "Pair_list_F.txt").write_text("1 ../a.jpg\n")
    with pytest.raises(ValueError, match=r"Split/FF"):
        read_cfp(tmp_path, "FF")


def test_a_csv_of_pairs_keeps_its_folds(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("path_a,path_b,same,fold\na,b,1,x\nc,d,0,y\na,c,0,x\n")
    pairs = read_csv(path)
    assert list(pairs) == [("a", "b", True, 0), ("a", "c", False, 0), ("c", "d", False, 1)]
    with pytest.raises(ValueError, match=r"\[2, 1\] .*\[1, 1, 1, 0, "):
        pairs.check_folds()
    path.write_text("a,b,1\n")
    assert list(read_csv(path)) == [("a", "b", True, None)]
    path.write_text("a,b\n")
    with pytest.raises(PairListError, match="line 1"):
        read_csv(path)


@pytest.fixture
def people(tmp_path: Path) -> Path:
    for name, images in (("An", 4), ("Bo", 1), ("Cy", 3)):
        (tmp_path / name).mkdir()
        for image in range(images):
            (tmp_path / name / f"{image}.jpg").touch()
    return tmp_path


def test_a_folder_of_identities_makes_all_pairs(people: Path) -> None:
    pairs = list(pair_folder(people))
    images = [f"An/{n}.jpg" for n in range(4)] + ["Bo/0.jpg"] + [f"Cy/{n}.jpg" for n in range(3)]
    everything = {(a, b, a[:2] == b[:2], None) for a, b in combinations(images, 2)}
    assert len(pairs) == len(everything) == 28
    assert set(pairs) == everything
    assert [pair.same for pair in pairs] == [True] * 9 + [False] * 19
    pair_folder(people).check_images(people)
    (people / "Bo" / "0.jpg").rename(people / "Bo" / "1.jpg")
    with pytest.raises(ValueError, match=r"1 of 8 .*Bo/0\.jpg"):
        PairList(images, np.arange(8), np.ones(4, np.bool_), None).check_images(people)


def test_a_stated_number_of_pairs_is_drawn_by_hash(people: Path) -> None:
    drawn = list(pair_folder(people, same=5, different=7))
    assert len(set(drawn)) == 12
    assert sum(pair.same for pair in drawn) == 5
    assert set(drawn) < set(pair_folder(people))
    assert drawn == list(pair_folder(people, same=5, different=7))
    assert drawn != list(pair_folder(people, same=5, different=7, seed=1))
    fewer = set(pair_folder(people, same=0, different=6))
    assert fewer < set(drawn)
    # A pair stays unless one with a lower hash comes in its place.
    (people / "Zoe").mkdir()
    (people / "Zoe" / "0.jpg").touch()
    with_zoe = set(pair_folder(people, same=5, different=7))
    assert {pair for pair in with_zoe if "Zoe/0.jpg" not in pair} <= set(drawn)


def test_large_folders_are_drawn_from_in_parts(tmp_path: Path) -> None:
    for person in range(40):
        (tmp_path / f"{person}").mkdir()
        for image in range(4):
            (tmp_path / f"{person}" / f"{image}.jpg").touch()
    few, many = (set(pair_folder(tmp_path, same=9, different=n)) for n in (50, 6000))
    assert (len(few), len(many)) == (59, 6009)
    assert few < many


@pytest.mark.parametrize(
    ("numbers", "values"),
    [
        ({"same": 10}, "10 .* 0 to 9,"),
        ({"different": 20}, "20 .* 0 to 19,"),
        ({"different": -1}, "-1 "),
        ({"same": 0, "different": 0}, "0 pairs of 8 images"),
    ],
)
def test_pairs_that_a_folder_does_not_make_are_refused(
    people: Path, numbers: dict[str, Any], values: str
) -> None:
    with pytest.raises(ValueError, match=values):
        pair_folder(people, **numbers)


def test_a_folder_of_another_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=str(tmp_path)):
        pair_folder(tmp_path)
