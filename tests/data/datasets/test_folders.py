import os
from pathlib import Path

import numpy as np
import pytest

from data.datasets.class_ids import NumberingError
from data.datasets.folders import FolderImages, digest, find_images
from data.records.locations import DatasetError
from tests.data.image_samples import people


def fill(folder: Path, files: list[str]) -> None:
    """Make `files`, and folders for names that end in a slash."""
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(name.encode())


def test_a_folder_gives_its_images_sorted_by_identity(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = ["b/2.jpg", "b/10.PNG", "ä ö/x.webp", "c d/1 ,\t.bmp", "a/1.jpeg"]
    passed_over = [".git/x.jpg", "a/.DS_Store", "a/.x.jpg", ".x.jpg"]
    left_out = ["list.txt", "1.jpg", "b/Thumbs.db", "b/notes"]
    fill(tmp_path, images + passed_over + left_out)
    found = FolderImages(tmp_path)
    assert list(found.paths) == ["a/1.jpeg", "b/10.PNG", "b/2.jpg", "c d/1 ,\t.bmp", "ä ö/x.webp"]
    assert found.names == ["a", "b", "c d", "ä ö"]
    assert found.labels.tolist() == [0, 1, 1, 2, 3]
    assert [found.encoded(row).decode() for row in range(5)] == list(found.paths)
    assert "left out 4 file(s) that are no image of an identity, such as 1.jpg" in caplog.text

    packed = find_images(tmp_path)
    assert list(packed.names) == list(found.paths)
    assert packed.labels.tolist() == found.labels.tolist()
    assert packed.class_names == found.names
    assert packed.num_classes == 4
    assert packed.sizes.tolist() == [len(name.encode()) for name in packed.names]
    assert packed.paths(np.array([1])) == [str(tmp_path / "b" / "10.PNG")]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], r"holds no sub-folders \(0 files\)"),
        (["1.jpg", "2.jpg"], r"holds no sub-folders \(2 files\): expected one sub-folder"),
        (["a/1.jpg", "b/"], r"/b holds no image \(\.bmp, .*: expected at least one for each"),
        (["a/1.jpg", "b/.x.jpg", "b/1.txt"], "/b holds no image"),
        (["a/1.jpg", "b/1.jpg", "b/c/1.jpg"], "/b/c is a folder inside an identity's folder"),
        (["a/1.jpg", "b/2.jpg/"], r"/b/2\.jpg is a folder inside an identity's folder"),
    ],
)
def test_folders_of_another_form_are_refused(
    files: list[str], message: str, tmp_path: Path
) -> None:
    fill(tmp_path, files)
    with pytest.raises(DatasetError, match=message):
        find_images(tmp_path)


def test_a_list_to_be_packed_has_classes_from_0_on(tmp_path: Path) -> None:
    fill(tmp_path, ["a.jpg"])
    listed = tmp_path / "x.CSV"
    listed.write_text("b.jpg,1\na.jpg,0\nc.gif,1\n")
    images = find_images(listed)
    assert list(images.names) == ["b.jpg", "a.jpg", "c.gif"]
    assert images.labels.tolist() == [1, 0, 1]
    assert images.class_names is None
    assert images.sizes.tolist() == [0, 5, 0]  # the others are not there: seen when they are read

    listed.write_text("b.jpg,10\na.jpg,9\n")
    with pytest.raises(NumberingError, match=r"x\.CSV: .* gaps.*set remap_labels"):
        find_images(listed)
    images = find_images(listed, remap_labels=True)
    assert images.labels.tolist() == [1, 0]
    assert images.class_names == ["9", "10"]

    listed.write_text("b.jpg,n10\na.jpg,9\n")
    images = find_images(listed)
    assert images.labels.tolist() == [1, 0]
    assert images.class_names == ["9", "n10"]


def test_paths_of_a_list_can_be_relative_to_another_folder(tmp_path: Path) -> None:
    people(tmp_path / "faces", {"a": 1})
    (tmp_path / "x.tsv").write_text("a/000.jpg\t0\n")
    images = find_images(tmp_path / "x.tsv", root=tmp_path / "faces")
    assert images.sizes[0] == (tmp_path / "faces" / "a" / "000.jpg").stat().st_size
    message = r"x\.tsv: image 1 of 1, \S+/a/000\.jpg, does not exist: .* --root of pack_records"
    with pytest.raises(DatasetError, match=message):
        find_images(tmp_path / "x.tsv")
    with pytest.raises(DatasetError, match="a root is for lists"):
        find_images(tmp_path / "faces", root=tmp_path)


def test_what_is_neither_folder_nor_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="nowhere does not exist: expected a folder"):
        find_images(tmp_path / "nowhere")
    fill(tmp_path, ["x.jpg"])
    with pytest.raises(DatasetError, match=r"x\.jpg is neither a folder nor a list: .*\.lst"):
        find_images(tmp_path / "x.jpg")


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
    added = digest(images, order[:1])
    added.update(images.fingerprint(order[1:]))
    assert added.hexdigest() == digest(images, order).hexdigest()
