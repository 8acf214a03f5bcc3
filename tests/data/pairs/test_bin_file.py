import hashlib
import json
import os
import pickle
import tracemalloc
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
    with pytest.raises(PairFileError, match=r"malicious\.bin.*posix\.system"):
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
    ("content", "named"),
    [
        ((IMAGES, [True]), "4 .* 1 "),
        (([], []), "0 .* 0 "),
        (IMAGES, "list of 4 "),
        ("text", "'text'"),
        (np.arange(2), "Call"),
        ((IMAGES, [True, 2]), "pair 1 .* 2 "),
        ((IMAGES, [True, "no"]), "pair 1 .* 'no'"),
        ((IMAGES, [True, IMAGES]), "pair 1 .* list of 4 "),
        ((IMAGES, True), "same .* True "),
        (([*IMAGES[:3], 7], [True, False]), "image 3 .* 7 "),
        (([*IMAGES[:3], "path"], [True, False]), "image 3 .* 'path'"),
        (([*IMAGES[:3], np.zeros((4, 4, 3), np.uint8)], [True, False]), r"image 3 .*\(4, 4, 3\)"),
        (([*IMAGES[:3], np.array(3, np.uint8)], [True, False]), r"image 3 .*\(\)"),
        (([*IMAGES[:3], np.zeros(4, np.float32)], [True, False]), "image 3 .*float32"),
        ((np.array([*IMAGES[:2], None, None], object), [True, False]), "image 2 .* None "),
    ],
)
def test_other_contents_are_refused(tmp_path: Path, content: object, named: str) -> None:
    path = tmp_path / "set.bin"
    path.write_bytes(pickle.dumps(content, 4))
    with pytest.raises(PairFileError, match=rf"set\.bin .*{named}.*scripts/make_pairs\.py"):
        read_pair_file(path)


@pytest.mark.parametrize("shape", [(2**40, 0), (1, 1), (3_000_001,)])
def test_arrays_of_other_shapes_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = np.zeros(shape, np.uint8)
    for name, content in (("images", (array, [True])), ("same", (IMAGES[:2], array))):
        (tmp_path / "set.bin").write_bytes(pickle.dumps(content))
        with pytest.raises(PairFileError, match=rf"{name} .*\({shape[0]},"):
            read_pair_file(tmp_path / "set.bin")


@pytest.mark.slow
@pytest.mark.parametrize("protocol", range(6))
def test_a_set_takes_at_most_twice_its_size(tmp_path: Path, protocol: int) -> None:
    images = [np.random.default_rng(k).bytes(20_000) for k in range(400)]
    (tmp_path / "set.bin").write_bytes(pickle.dumps((images, [True, False] * 100), protocol))
    tracemalloc.start()
    try:
        pairs = read_pair_file(tmp_path / "set.bin")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [bytes(image) for image in pairs.images] == images
    size = (tmp_path / "set.bin").stat().st_size  # is mapped
    # Protocols 0 to 2 spell bytes as text, which has to be decoded; later ones store them.
    assert peak < (size if protocol < 3 else size / 10)


def test_arrays_of_images_and_labels_are_read(tmp_path: Path) -> None:
    images = np.empty(4, dtype=object)
    images[:] = [np.frombuffer(image, np.uint8) for image in IMAGES]
    images[3] = images[3][None]  # one row, as image encoders return it
    path = tmp_path / "set.bin"
    path.write_bytes(pickle.dumps((images, np.array([1, 0]))))
    pairs = read_pair_file(path)
    assert [bytes(image) for image in pairs.images] == IMAGES
    assert pairs.same.tolist() == [True, False]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", ""),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
        (b"<!DOCTYPE html>", "b'<'"),
        # A number that Python refuses to print in decimal.
        (b"](U\x01xU\x01xe]I0x" + b"f" * 9000 + b"\na\x86.", "pair 0 .* int "),
    ],
)
def test_files_that_are_not_sets_are_refused(tmp_path: Path, content: bytes, named: str) -> None:
    path = tmp_path / "set.bin"
    path.write_bytes(content)
    with pytest.raises(PairFileError, match=rf"set\.bin.*{named}"):
        read_pair_file(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PairFileError, match=r"absent\.bin"):
        read_pair_file(tmp_path / "absent.bin")


def test_wrong_counts_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(PairFileError, match=r"set\.bin: 3 .* 2 .* 4 "):
        write_pair_file(tmp_path / "set.bin", IMAGES[:3], [True, False])
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("positives", "negatives"), [(300, 300), (10, 590), (7, 0), (1, 1)])
def test_the_balanced_order_spreads_both_kinds(positives: int, negatives: int) -> None:
    same = np.array([True] * positives + [False] * negatives)
    order = balanced_order(same)
    assert sorted(order) == list(range(len(same)))
    for fold in np.array_split(same[order], 10):
        assert abs(fold.sum() - len(fold) * positives / len(same)) <= 1.5
