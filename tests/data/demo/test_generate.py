"""Demo data: the files, when they are made again, and that they are not too easy."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from data.datasets.dataset import open_dataset
from data.demo.generate import (
    MANIFEST,
    VERIFICATION_SETS,
    arrange_pairs,
    make_demo_data,
    training_people,
    verification_people,
)
from data.pairs.bin_file import read_pair_file
from scripts.make_demo_data import main

pytestmark = pytest.mark.slow

PEOPLE = 60
FILES = {"train.rec", "train.idx", "property", MANIFEST, *(f"{n}.bin" for n in VERIFICATION_SETS)}


def make(folder: Path, **changes: object) -> bool:
    parameters: dict[str, object] = {"identities": 4, "images": 10, "people_per_set": 20}
    run: Callable[..., bool] = make_demo_data
    return run(folder, **(parameters | {"processes": 1} | changes))


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "data"
    assert make(folder, people_per_set=PEOPLE)
    return folder


def test_training_set_reads_back(demo: Path) -> None:
    assert {path.name for path in demo.iterdir()} == FILES
    dataset = open_dataset(demo)
    assert dataset.num_classes == 4
    assert np.bincount(dataset.labels).tolist() == [2, 3, 2, 3]
    image = simplejpeg.decode_jpeg(bytes(dataset.encoded(0)))
    assert image.shape == (112, 112, 3)


@pytest.mark.parametrize("name", VERIFICATION_SETS)
def test_half_of_each_fold_is_of_either_kind(demo: Path, name: str) -> None:
    same = read_pair_file(demo / f"{name}.bin").same.reshape(10, -1)
    assert same.shape == (10, 2 * PEOPLE // 10)
    assert (same[:, : PEOPLE // 10]).all()
    assert not (same[:, PEOPLE // 10 :]).any()


@pytest.mark.parametrize("name", VERIFICATION_SETS)
def test_pixels_do_not_tell_people_apart(demo: Path, name: str) -> None:
    """With the best threshold on raw pixels, plain or with each image's mean removed."""
    pairs = read_pair_file(demo / f"{name}.bin")
    images = [simplejpeg.decode_jpeg(bytes(pairs.encoded(i))) for i in range(4 * PEOPLE)]
    plain = np.stack(images).reshape(4 * PEOPLE, -1).astype(np.float64)
    for pixels in (plain, plain - plain.mean(axis=1, keepdims=True)):
        unit = pixels / np.linalg.norm(pixels, axis=1, keepdims=True)
        cosine = (unit[0::2] * unit[1::2]).sum(axis=1)
        best = max(((cosine >= t) == pairs.same).mean() for t in cosine)
        assert 0.5 <= best < 0.75


def test_people_of_the_sets_are_not_in_training() -> None:
    trained = {person.identity for person in training_people(0, 2000, 20_000)}
    sets = [
        {person.identity for person in verification_people(0, 2**31 + 300 * i, 300, shots)}
        for i, shots in enumerate(VERIFICATION_SETS.values())
    ]
    assert len(trained) == 2000
    assert len(set().union(trained, *sets)) == 2000 + 3 * 300


def test_pairs_are_of_one_person_or_of_two_of_a_fold() -> None:
    groups = [[f"{person}.{shot}".encode() for shot in range(4)] for person in range(30)]
    images, same = arrange_pairs(groups)
    assert len(images) == 2 * len(same) == 120
    folds: list[set[str]] = [set() for _ in range(10)]
    for k, is_same in enumerate(same):
        (a, shot_a), (b, shot_b) = (
            image.decode().split(".") for image in images[2 * k : 2 * k + 2]
        )
        assert (a == b) == is_same
        assert (int(shot_a) % 2, int(shot_b) % 2) == (0, 1)
        folds[k // 6] |= {a, b}
    assert len(set(images)) == 120
    assert sum(len(fold) for fold in folds) == 30


def test_bytes_do_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    assert make(tmp_path / "one", identities=3, images=9)
    assert make(tmp_path / "two", identities=3, images=9, processes=2)
    for name in FILES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_made_data_is_left_alone(demo: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in demo.iterdir()}
    assert not make(demo, people_per_set=PEOPLE)
    assert before == {path.name: path.stat().st_mtime_ns for path in demo.iterdir()}


def test_other_parameters_are_refused_with_both(demo: Path) -> None:
    with pytest.raises(ValueError, match=r"'seed': 0.*'seed': 5"):
        make(demo, people_per_set=PEOPLE, seed=5)


def test_other_contents_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path} ") + rf".*{MANIFEST}"):
        make(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("damage", ["missing", "short"])
def test_damaged_data_is_named(tmp_path: Path, damage: str) -> None:
    for name in ("train.rec", MANIFEST):
        (tmp_path / name).write_bytes(b"1234")
    parameters = {"generator": 1, "identities": 4, "images": 10, "people_per_set": 20, "seed": 0}
    size = 4 if damage == "missing" else 5
    files = {"train.rec": size} | ({"lfw.bin": 9} if damage == "missing" else {})
    (tmp_path / MANIFEST).write_text(json.dumps({"parameters": parameters, "files": files}))
    expected = r"/lfw\.bin .* 9 bytes" if damage == "missing" else r"/train\.rec .* 4 .* 5 bytes"
    with pytest.raises(ValueError, match=expected):
        make(tmp_path)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"parameters": 3, "files": {}}'])
def test_broken_manifest_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(ValueError, match=rf"/{MANIFEST} is not"):
        make(tmp_path)


def test_empty_folder_is_filled(tmp_path: Path) -> None:
    assert make(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == FILES


def test_nothing_is_left_when_it_is_cut_short(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        assert (done, total) == (2, 10 + 3 * 4 * 20)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "data", progress=interrupt)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"identities": 0}, "identities is 0"),
        ({"identities": 11}, "images is 10: .* 11"),
        ({"people_per_set": 25}, "people_per_set is 25: .* 10"),
        ({"people_per_set": 10}, "people_per_set is 10"),
        ({"processes": 0}, "processes is 0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_numbers_out_of_range_are_refused(
    tmp_path: Path, change: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make(tmp_path / "data", **change)
    assert list(tmp_path.iterdir()) == []


def test_command(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--identities", "4", "--images", "10", "--people-per-set", str(PEOPLE)]
    assert main([str(demo), *options]) == 0
    assert "was made before and is complete" in capsys.readouterr().out
    assert main([str(demo), *options, "--seed", "9"]) == 1
    assert "error: " in capsys.readouterr().err
