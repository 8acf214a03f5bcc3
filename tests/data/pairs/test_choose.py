from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from data.datasets.dataset import DatasetError
from data.pairs.bin_file import read_pair_file
from data.pairs.choose import choose_pairs, pack_folder, plan_pairs
from data.pairs.lists import PairListError
from eval.protocol import fold_indices
from tests.conftest import picture

UNEQUAL = [
    *(1, 1, 2, 3, 2, 40, 2, 2, 5, 3, 2, 2, 9, 2, 1),
    *(6, 2, 2, 3, 4, 2, 2, 2, 2, 3, 7, 2, 2, 2, 8),
]


@pytest.mark.parametrize(
    ("counts", "pairs", "folds"),
    [
        ([4] * 40, 200, 10),
        (UNEQUAL, 20, 10),
        (UNEQUAL, 60, 5),
        ([3, 3, 3, 3], 12, 2),
        ([4, 2, 2, 2, 2, 1, 1, 1, 1], 16, 2),
    ],
)
def test_folds_are_even_and_have_no_person_in_common(
    counts: list[int], pairs: int, folds: int
) -> None:
    chosen = choose_pairs(counts, pairs=pairs, folds=folds, seed=3)
    owner = np.repeat(np.arange(len(counts)), counts)
    assert len(chosen) == pairs == len({frozenset(pair[:2]) for pair in chosen})
    seen: set[int] = set()
    for start in range(0, pairs, pairs // folds):
        fold = chosen[start : start + pairs // folds]
        assert sum(same for _, _, same in fold) == len(fold) // 2
        assert all(a != b and (owner[a] == owner[b]) == same for a, b, same in fold)
        people = {int(owner[image]) for a, b, _ in fold for image in (a, b)}
        assert not people & seen
        seen |= people


def test_pairs_of_one_person_are_spread_over_the_people() -> None:
    chosen = choose_pairs([5, 5, 5, 2, 5, 5, 5, 2], pairs=52, folds=2, seed=0)
    owner = np.repeat(np.arange(8), [5, 5, 5, 2, 5, 5, 5, 2])
    per_person = Counter(int(owner[a]) for a, _, same in chosen if same)
    assert sorted(per_person.values()) == [1, 1, 4, 4, 4, 4, 4, 4]


def test_all_possible_pairs_can_be_chosen() -> None:
    chosen = choose_pairs([3, 3, 1, 3, 3, 1], pairs=24, folds=2, seed=1)
    assert sum(same for _, _, same in chosen[:12]) == 6
    assert len({pair[:2] for pair in chosen}) == 24


def test_the_same_seed_gives_the_same_choice() -> None:
    first, again, other = (choose_pairs([4] * 40, pairs=40, folds=10, seed=s) for s in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize(
    ("counts", "pairs", "folds", "values"),
    [
        ([4] * 40, 30, 10, "30 pairs in 10 folds: .* 20,"),
        ([4] * 40, 0, 10, "0 pairs in 10 folds"),
        ([4] * 40, 20, 1, "20 pairs in 1 folds"),
        ([4] * 9, 20, 10, "20 pairs in 10 .* fold 0 .* 1 .* 4 .* 6 .* 0 "),
        ([9] * 10, 20, 10, "20 pairs in 10 .* fold 0 .* 1 .* 9 .* 36 .* 0 "),
        ([1] * 40, 20, 10, "20 pairs in 10 .* fold 0 .* 4 .* 4 .* 0 .* 6 "),
        ([3] * 4, 28, 2, "28 pairs in 2 .* 7 .* fold 0 .* 2 .* 6 .* 6 .* 9 "),
    ],
)
def test_an_impossible_choice_is_refused(
    counts: list[int], pairs: int, folds: int, values: str
) -> None:
    with pytest.raises(PairListError, match=values):
        choose_pairs(counts, pairs=pairs, folds=folds, seed=0)


@pytest.mark.parametrize(
    ("counts", "pairs", "folds", "expected"),
    [
        ([20] * 10, None, None, (3800, 5)),  # 2 x 190 pairs of one person in each of 5 folds
        ([20] * 10, 200, None, (200, 5)),
        ([20] * 10, 200, 2, (200, 2)),
        ([2] * 10, None, None, (20, 5)),
        ([2] * 20, None, None, (40, 10)),
        ([2] * 19, None, None, (20, 5)),
        ([9] * 5, None, None, (280, 2)),
        ([30] * 30, None, None, (6000, 10)),
        ([30] * 30, 7000, None, (7000, 10)),
    ],
)
def test_few_people_make_fewer_folds_and_pairs(
    counts: list[int], pairs: int | None, folds: int | None, expected: tuple[int, int]
) -> None:
    number, groups, remarks = plan_pairs(counts, pairs=pairs, folds=folds, seed=4)
    assert (number, groups) == expected
    assert len(remarks) == (pairs is None and number < 6000) + (groups < 10)
    chosen = choose_pairs(counts, pairs=number, folds=groups, seed=4)
    owner = np.repeat(np.arange(len(counts)), counts)
    same = np.array([same for _, _, same in chosen])
    for fold in fold_indices(number):  # those of verification
        assert 2 * same[fold].sum() == len(fold)
    people = [
        {int(owner[image]) for a, b, _ in part for image in (a, b)}
        for part in np.array_split(np.array(chosen), groups)
    ]
    assert sum(map(len, people)) == len(set().union(*people))


@pytest.mark.parametrize(
    ("counts", "pairs", "folds", "values"),
    [
        ([4] * 40, 30, None, "30 pairs in 10 .* 20 "),
        ([4] * 40, 0, None, "0 pairs in 10 .* 20 "),
        ([4] * 40, None, 1, "6000 pairs in 1 "),
        ([4] * 40, 60, 3, "60 pairs in 3 .* 10, 5 or 2 "),
        ([4] * 10, None, 10, "10 people with 40 images make 0 .* --folds 5 --pairs 120, "),
        ([4] * 10, 6000, None, "make 120 .* 6000 .* --folds 5 --pairs 120, "),
        ([9] * 10, 6000, 10, "make 0 .* --folds 5 --pairs 720, "),
        ([20, 20, 2, 2], 20, 5, "make 0 .* --folds 2 --pairs 20, "),
        ([1] * 40, None, None, "40 people with 40 images make 0 .* 20 "),
        ([9] * 3, None, None, "3 people with 27 images make 0 "),
    ],
)
def test_what_is_possible_is_said(
    counts: list[int], pairs: int | None, folds: int | None, values: str
) -> None:
    with pytest.raises(PairListError, match=values):
        plan_pairs(counts, pairs=pairs, folds=folds, seed=0)


def test_a_folder_becomes_a_set(tmp_path: Path) -> None:
    for identity in range(20):
        (tmp_path / "faces" / f"{identity:02}").mkdir(parents=True)
        for number in range(2):
            path = tmp_path / "faces" / f"{identity:02}" / f"{number}.jpg"
            path.write_bytes(picture(identity, number, 8))
    written = pack_folder(tmp_path / "faces", tmp_path / "set.bin", pairs=40, seed=5)
    pairs = read_pair_file(tmp_path / "set.bin")
    assert (written.pairs, written.same, len(pairs)) == (40, 20, 80)
    owner = {picture(i, number, 8): i for i in range(20) for number in range(2)}
    people = [owner[bytes(image)] for image in pairs.images]
    assert pairs.same.tolist() == [a == b for a, b in zip(people[::2], people[1::2], strict=True)]
    (tmp_path / "faces" / "07" / "1.jpg").write_bytes(b"no image")
    with pytest.raises(PairListError, match=r"07/1\.jpg"):
        pack_folder(tmp_path / "faces", tmp_path / "set.bin", pairs=40, seed=5)
    with pytest.raises(PairListError, match=r"faces: 20 people with 40 images make 40 .* 4000 "):
        pack_folder(tmp_path / "faces", tmp_path / "set.bin", pairs=4000)


def test_a_folder_of_another_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=str(tmp_path)):
        pack_folder(tmp_path, tmp_path / "set.bin", pairs=40)
