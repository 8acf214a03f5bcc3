import logging
import os
from pathlib import Path

import pytest

from data.image_files import SourceError, digest, find_images
from tests.data.image_samples import people


def write_list(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_folder_gives_its_files_sorted_by_identity(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = ["b/2.jpg", "b/10.png", "ä ö/x", "c d/1 ,\t.jpg", "a/1.jpg"]
    passed_over = [".git/x.jpg", "a/.DS_Store", "list.txt"]
    for name in files + passed_over:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    images = find_images(tmp_path)
    assert images.names == ["a/1.jpg", "b/10.png", "b/2.jpg", "c d/1 ,\t.jpg", "ä ö/x"]
    assert images.labels.tolist() == [0, 1, 1, 2, 3]
    assert images.class_names == ["a", "b", "c d", "ä ö"]
    assert images.num_classes == 4
    assert images.sizes.tolist() == [len(name.encode()) for name in images.names]
    assert images.path(1) == str(tmp_path / "b" / "10.png")
    assert "left out 1 file(s)" in caplog.text
    assert "such as list.txt" in caplog.text


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], r"holds no sub-folders \(0 files\)"),
        (["1.jpg", "2.jpg"], r"holds no sub-folders \(2 files\)"),
        (["a/1.jpg", "b/"], "/b is empty: expected at least one image"),
        (["a/1.jpg", "b/.DS_Store"], "/b is empty"),
        (["a/1.jpg", "b/c/1.jpg"], "/b/c is a folder inside an identity's folder"),
    ],
)
def test_folders_of_another_form_are_refused(
    files: list[str], message: str, tmp_path: Path
) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            (tmp_path / name).mkdir()
        else:
            (tmp_path / name).touch()
    with pytest.raises(SourceError, match=message):
        find_images(tmp_path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.tsv", "a, b/1.jpg\t1\nö/2.jpg\t0\n\nc/3.jpg\t1\n"),
        ("x.csv", "path,label\na, b/1.jpg,1\nö/2.jpg,0\nc/3.jpg,1"),
        ("x.txt", "\ufeffpath\tlabel\r\na, b/1.jpg\t1\r\nö/2.jpg\t0\r\nc/3.jpg\t1\r\n"),
        ("x.lst", "7\t1.000000\ta, b/1.jpg\n0\t0.0\tö/2.jpg\n4 \t 1 \t c/3.jpg\n"),
    ],
)
def test_lists_are_read_in_their_order(name: str, text: str, tmp_path: Path) -> None:
    images = find_images(write_list(tmp_path / name, text))
    assert images.names == ["a, b/1.jpg", "ö/2.jpg", "c/3.jpg"]
    assert images.labels.tolist() == [1, 0, 1]
    assert images.class_names is None
    assert images.root == tmp_path
    assert images.sizes.tolist() == [0, 0, 0]  # the files are not there: seen when they are read


@pytest.mark.parametrize(
    ("labels", "classes", "names"),
    [
        (["10", "9", "9"], [1, 0, 0], ["9", "10"]),
        (["3", "1", "2"], [2, 0, 1], ["1", "2", "3"]),
        (["bob", "Ann", "bob"], [1, 0, 1], ["Ann", "bob"]),
        (["n10", "n9", "2"], [1, 2, 0], ["2", "n10", "n9"]),
    ],
)
def test_names_and_numbers_with_gaps_are_numbered_afresh(
    labels: list[str],
    classes: list[int],
    names: list[str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    text = "".join(f"{number}.jpg\t{label}\n" for number, label in enumerate(labels))
    with caplog.at_level(logging.WARNING):
        images = find_images(write_list(tmp_path / "x.tsv", text))
    assert images.labels.tolist() == classes
    assert images.class_names == names
    assert ("numbered afresh" in caplog.text) == labels[0].isdecimal()


def test_paths_of_a_list_can_be_relative_to_another_folder(tmp_path: Path) -> None:
    people(tmp_path / "faces", {"a": 1})
    listed = write_list(tmp_path / "x.tsv", "a/000.jpg\t0\n")
    images = find_images(listed, root=tmp_path / "faces")
    assert images.sizes[0] == (tmp_path / "faces" / "a" / "000.jpg").stat().st_size
    with pytest.raises(SourceError, match="a root is for lists"):
        find_images(tmp_path / "faces", root=tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.tsv", "", "holds no lines"),
        ("x.tsv", "a.jpg\t0\nb.jpg\n", r"line 2: found 'b\.jpg', expected path<tab>label"),
        ("x.csv", "a.jpg,0\nb.jpg,\n", r"line 2: found 'b\.jpg,'"),
        ("x.lst", "0\t1\n", "line 1: .*expected number<tab>label<tab>path"),
        ("x.lst", "0\t1\t0.5\ta.jpg\n", "one label"),
        ("x.tsv", "a.jpg\t0\nb.jpg\t-1\n", "label -1 is no class number"),
        ("x.tsv", "a.jpg\t0\nb.jpg\t0.5\n", r"label 0\.5 is no class number"),
        ("x.jpg", "a.jpg\t0\n", "is neither a folder nor a list"),
    ],
)
def test_lists_of_another_form_are_refused(
    name: str, text: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(SourceError, match=message):
        find_images(write_list(tmp_path / name, text))


def test_a_source_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="nowhere does not exist: expected a folder"):
        find_images(tmp_path / "nowhere")


def test_the_digest_sees_names_labels_sizes_times_and_order(tmp_path: Path) -> None:
    people(tmp_path, {"a": 2, "b": 1})
    images = find_images(tmp_path)
    before = digest(images, images.labels * 0).hexdigest()

    def now() -> str:
        found = find_images(tmp_path)
        return digest(found, found.labels * 0).hexdigest()

    assert now() == before
    first = tmp_path / "a" / "000.jpg"
    status = first.stat()
    os.utime(first, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert now() != before
    os.utime(first, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert now() == before
    first.rename(tmp_path / "a" / "00.jpg")
    assert now() != before
    order = images.labels.argsort()
    assert digest(images, order).hexdigest() != digest(images, order[::-1]).hexdigest()
