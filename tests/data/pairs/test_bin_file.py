import hashlib
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from data.pairs.bin_file import PairFileError, balanced_order, read_pair_file, write_pair_file

BINS = Path(__file__).parents[2] / "fixtures" / "bins"
IMAGES = [b"\xff\xd8 first", b"\xff\xd8 second", b"\xff\xd8 third", b"\xff\xd8 fourth"]


@pytest.mark.parametrize("name", ["py2_list", "py3_list", "numpy_arrays"])
def test_published_layouts_are_read(name: str) -> None:
    expected = json.loads((BINS / "expected.json").read_text())
    pairs = read_pair_file(BINS / f"{name}.bin")
    assert pairs.same.dtype == np.bool_
    assert pairs.same.tolist() == expected["issame"]
    assert len(pairs) == 2 * expected["pairs"]
    digests = [hashlib.sha256(pairs.encoded(i)).hexdigest() for i in range(len(pairs))]
    assert digests == expected["image_sha256"]
    assert pairs.describe(5) == f"{BINS / name}.bin, image 5 (of pair 2)"


def test_a_program_is_refused_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PairFileError, match=r"malicious.bin: .*byte 30: it asks for posix.system"):
        read_pair_file(BINS / "malicious.bin")
    assert os.listdir(tmp_path) == []


def test_what_is_written_is_read_here_and_by_pickle(tmp_path: Path) -> None:
    path = tmp_path / "set.bin"
    write_pair_file(path, IMAGES, np.array([True, False]))
    pairs = read_pair_file(path)
    assert [bytes(image) for image in pairs.images] == IMAGES
    assert pairs.same.tolist() == [True, False]
    with path.open("rb") as file:
        assert pickle.load(file, encoding="bytes") == (IMAGES, [True, False])
    write_pair_file(path, pairs.images, pairs.same)  # over the file that the views belong to
    assert [bytes(image) for image in read_pair_file(path).images] == IMAGES
    assert os.listdir(tmp_path) == ["set.bin"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ((IMAGES, [True]), "4 images and 1 pair labels, .* that is 2"),
        (([], []), "at least one pair"),
        (IMAGES, "a list of 4 items, expected the two items"),
        ("text", r"'text' \(str\), expected the two items"),
        ((IMAGES, [True, 2]), "label of pair 1 is '2' .*expected true or false"),
        ((IMAGES, [True, "no"]), "label of pair 1 is 'no'"),
        ((IMAGES, True), "same is 'True' .*expected a list"),
        (([*IMAGES[:3], 7], [True, False]), "image 3 is '7'"),
        (([*IMAGES[:3], np.zeros((4, 4, 3), np.uint8)], [True, False]), r"shape \(4, 4, 3\)"),
        (([*IMAGES[:3], np.zeros(4, np.float32)], [True, False]), "float32; expected an encoded"),
        ((np.array([*IMAGES[:2], None, None], object), [True, False]), "image 2 is 'None'"),
    ],
)
def test_other_contents_are_refused(tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / "set.bin"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(PairFileError, match=rf"set\.bin: .*{message}.*write_pair_file"):
        read_pair_file(path)


@pytest.mark.parametrize("shape", [(2**40, 0), (1, 1), (3_000_001,)])
def test_arrays_that_are_no_list_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = np.zeros(shape, np.uint8)
    for content in ((array, [True]), (IMAGES[:2], array)):
        (tmp_path / "set.bin").write_bytes(pickle.dumps(content))
        with pytest.raises(
            PairFileError, match=rf"is an array of shape \({shape[0]}, ?.*expected one"
        ):
            read_pair_file(tmp_path / "set.bin")


def test_arrays_of_images_and_labels_are_read(tmp_path: Path) -> None:
    images = np.empty(4, dtype=object)
    images[:] = [np.frombuffer(image, np.uint8) for image in IMAGES]
    images[3] = images[3][None]  # a row, as image encoders return it
    path = tmp_path / "set.bin"
    path.write_bytes(pickle.dumps((images, np.array([1, 0]))))
    pairs = read_pair_file(path)
    assert [bytes(image) for image in pairs.images] == IMAGES
    assert pairs.same.tolist() == [True, False]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
        (b"<!DOCTYPE html>", "opcode b'<'"),
    ],
)
def test_files_that_are_no_sets_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "set.bin"
    path.write_bytes(content)
    with pytest.raises(PairFileError, match=rf"set\.bin: .*{message}"):
        read_pair_file(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PairFileError, match=r"absent\.bin: no such file"):
        read_pair_file(tmp_path / "absent.bin")


def test_wrong_counts_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(PairFileError, match="3 images for 2 pairs, expected 4"):
        write_pair_file(tmp_path / "set.bin", IMAGES[:3], [True, False])
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("positives", "negatives"), [(300, 300), (10, 590), (7, 0), (1, 1)])
def test_the_balanced_order_spreads_both_kinds(positives: int, negatives: int) -> None:
    same = np.array([True] * positives + [False] * negatives)
    order = balanced_order(same)
    assert sorted(order) == list(range(len(same)))
    for fold in np.array_split(same[order], 10):
        assert abs(fold.sum() - len(fold) * positives / len(same)) <= 1.5
