"""Tests of `eval.suites.pairs` on sets of coloured images."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.pairs.bin_file import write_pair_file
from eval.protocols.bootstrap import BY_PAIR, BY_SUBJECT
from eval.results import SetResult
from eval.suites.pairs import cosines, judge_pairs, open_pairs
from eval.suites.quality import thinned
from eval.suites.scored import Scored
from eval.suites.settings import PairSet, Suite
from eval.verification import verify_embeddings
from tests.eval.suites.made_sets import PEOPLE, PHOTOS, embedder, model, photo, write_folder


def judge(root: Path, settings: PairSet) -> tuple[SetResult, Scored]:
    item = open_pairs("made", settings, root)
    suite = Suite(pairs={"made": settings}, fars=[0.1, 0.01, 1e-6], replicates=30)
    return judge_pairs(item, "corners", embedder()(model(), item.images), suite)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_folder(tmp_path / "faces")
    return tmp_path


def test_a_folder_of_people(folder: Path) -> None:
    result, scored = judge(folder, PairSet(format="folder", file=Path("faces")))
    images, genuine = PEOPLE * PHOTOS, PEOPLE * 3
    counts = result.counts
    assert (counts.images, counts.subjects, counts.genuine) == (images, PEOPLE, genuine)
    assert counts.impostor == images * (images - 1) // 2 - genuine == len(scored.pairs.impostor_n)
    assert counts.repeated_rows == 0
    assert result.verification is not None
    assert result.verification.interval_method == BY_SUBJECT
    assert result.verification.auc > 0.9
    assert [row.point.tar is None for row in result.verification.rows] == [False, False, True]
    assert result.ten_fold is None
    assert set(result.missing) == {"ten_fold", "groups"}
    assert result.quality is not None
    assert result.quality.far == 0.01
    assert sum(result.quality.histogram) == images
    assert len(result.quality.worst) == 10


def test_the_hardest_pairs_can_be_found_again(folder: Path) -> None:
    settings = PairSet(format="folder", file=Path("faces"))
    item = open_pairs("made", settings, folder)
    result, _ = judge(folder, settings)
    assert result.hardest is not None
    features = embedder()(model(), item.images).features()
    for kind, pairs in ((False, result.hardest.impostor), (True, result.hardest.genuine)):
        assert len(pairs) == 10
        scores = [pair.score for pair in pairs]
        assert scores == sorted(scores, reverse=not kind)
        for pair in pairs:
            assert item.same_p[pair.pair] == kind
            assert pair.first == item.images.source.describe(pair.first_image)
            rows = item.images.rows[[pair.first_image, pair.second_image]]
            assert pair.score == cosines(features, rows)[0]
    everything = cosines(features, item.rows)
    assert result.hardest.impostor[0].score == everything[~item.same_p].max()
    assert result.hardest.genuine[0].score == everything[item.same_p].min()


def write_bin(path: Path) -> list[int]:
    """Write 40 pairs, the last two the same; return who is on each image."""
    people = [
        person
        for pair in range(39)
        for person in (pair % PEOPLE, (pair + pair % 2) % PEOPLE)
    ]  # fmt: skip
    images = [photo(person, number % 5) for number, person in enumerate(people)]
    people, images = people + people[-2:], images + images[-2:]
    write_pair_file(path, images, [a == b for a, b in zip(people[::2], people[1::2], strict=True)])
    return people


def test_a_bin_has_the_published_figures(tmp_path: Path) -> None:
    write_bin(tmp_path / "made.bin")
    settings = PairSet(file=Path("made.bin"))
    item = open_pairs("made", settings, tmp_path)
    embedded = embedder()(model(), item.images)
    expected, _ = verify_embeddings(
        "made", embedded.plain, embedded.flipped, item.same_p, item.rows
    )
    result, _ = judge(tmp_path, settings)
    assert result.ten_fold == expected
    assert expected.standard_error == pytest.approx(
        expected.population_std * np.sqrt(10 / 9) / np.sqrt(10)
    )
    assert result.verification is not None
    assert result.verification.interval_method == BY_PAIR
    assert result.verification.rows[0].point.tar is not None
    assert result.counts.repeated_rows == 1
    assert result.counts.subjects is None


def write_people(path: Path, people: list[int], group: Callable[[int], str]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "subject", "group", "quality"])
        writer.writerows([i, p, group(p), 1 + i % 7] for i, p in enumerate(people))


def test_a_list_of_people_gives_intervals_groups_and_quality(tmp_path: Path) -> None:
    people = write_bin(tmp_path / "made.bin")
    write_people(tmp_path / "people.csv", people, lambda person: "ab"[person % 2])
    settings = PairSet(file=Path("made.bin"), people=Path("people.csv"), group_far=0.2)
    result, _ = judge(tmp_path, settings)
    assert result.verification is not None
    assert result.verification.interval_method == BY_SUBJECT
    assert result.counts.subjects == PEOPLE
    assert [one.group for one in result.groups[0].groups] == ["a", "b"]
    assert result.groups[0].far == 0.2
    assert result.quality is not None
    assert "people" in result.quality.source
    qualities = [one.quality for one in result.quality.worst]
    assert qualities == sorted(qualities)
    assert qualities[0] == 1.0
    assert [Path(file.path).name for file in result.files] == ["made.bin", "people.csv"]
    assert result.missing == {}

    write_people(tmp_path / "people.csv", [0, *people[1:]][::-1], lambda person: "a")
    with pytest.raises(ValueError, match=r"people\.csv"):
        open_pairs("made", settings, tmp_path)


def write_list(path: Path, rows: list[tuple[Any, ...]]) -> PairSet:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return PairSet(format="csv", file=Path(path.name), images=Path("faces"))


def test_a_list_of_pairs_with_folds(folder: Path) -> None:
    rows = [
        (f"p{k:02}/0.png", f"p{(k + different) % PEOPLE:02}/1.png", 1 - different, k)
        for k in range(10)
        for different in (0, 1)
    ]
    result, _ = judge(folder, write_list(folder / "pairs.csv", rows))
    assert result.ten_fold is not None
    assert result.settings["format"] == "csv"
    result, _ = judge(folder, write_list(folder / "pairs.csv", rows[:-2]))
    assert result.ten_fold is None
    assert "folds" in result.missing["ten_fold"]
    with pytest.raises(ValueError, match=r"absent\.png"):
        judge(folder, write_list(folder / "pairs.csv", [("p00/0.png", "absent.png", 0)]))


def test_official_labels_that_contradict_names_leave_people_unknown(folder: Path) -> None:
    faces = folder / "faces"
    lines = ["5\t1"]
    for person in range(5):
        for number in (1, 2):
            name = faces / f"P{person}" / f"P{person}_{number:04}.jpg"
            name.parent.mkdir(exist_ok=True)
            name.write_bytes(photo(person, number))
        # The first pair of "two people" is of one.
        lines += [f"P{person} 1 2", f"P{person} 1 P{max(1, person)} 2"]
    (folder / "pairs.txt").write_text("\n".join(lines))
    settings = PairSet(format="lfw", file=Path("pairs.txt"), images=Path("faces"))
    item = open_pairs("made", settings, folder)
    assert item.people is None
    assert "4 of 10" in item.warnings[0]


def test_a_thinned_curve_keeps_its_ends(folder: Path) -> None:
    result, _ = judge(folder, PairSet(format="folder", file=Path("faces")))
    assert result.quality is not None
    curve = result.quality.curve
    thin = thinned(curve, 4)
    assert len(thin.discard) == 4
    assert (thin.discard[0], thin.discard[-1]) == (0.0, 1.0)
    assert thin.partial_area == curve.partial_area
