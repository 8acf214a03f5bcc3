import os
from pathlib import Path

import pytest

from data.datasets.folders import FolderImages, ListImages, open_image_files
from data.records.locations import DatasetError


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
    hidden = [".git/x.jpg", "a/.DS_Store", "a/.x.jpg", ".x.jpg"]
    others = ["list.txt", "1.jpg", "b/Thumbs.db", "b/notes"]
    fill(tmp_path, images + hidden + others)
    found = FolderImages(tmp_path)
    assert list(found.paths) == ["a/1.jpeg", "b/10.PNG", "b/2.jpg", "c d/1 ,\t.bmp", "ä ö/x.webp"]
    assert found.names == ["a", "b", "c d", "ä ö"]
    assert found.labels.tolist() == [0, 1, 1, 2, 3]
    assert [found.encoded(row).decode() for row in range(5)] == list(found.paths)
    assert found.describe(1) == str(tmp_path / "b" / "10.PNG")
    (warning,) = caplog.records
    assert warning.args == (tmp_path, len(others), "1.jpg")


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ([], r"\(0 files\)"),
        (["1.jpg", "2.jpg"], r"\(2 files\)"),
        (["a/1.jpg", "b/"], r"/b .*\.bmp, "),
        (["a/1.jpg", "b/.x.jpg", "b/1.txt"], "/b "),
        (["a/1.jpg", "b/1.jpg", "b/c/1.jpg"], "/b/c "),
        (["a/1.jpg", "b/2.jpg/"], r"/b/2\.jpg "),
    ],
)
def test_folders_of_another_form_are_refused(files: list[str], named: str, tmp_path: Path) -> None:
    fill(tmp_path, files)
    with pytest.raises(DatasetError, match=rf"{tmp_path}.*{named}"):
        FolderImages(tmp_path)


def test_links_and_names_that_need_care(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(tmp_path, ["a\x1b[31m/\x07.jpg"])
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "a\x1b[31m" / "loop.jpg").symlink_to("loop.jpg")
    found = FolderImages(tmp_path)
    assert (found.names, len(found)) == (["a\x1b[31m"], 2)
    assert found.encoded(0) == b"a\x1b[31m/\x07.jpg"
    with pytest.raises(DatasetError, match=r"loop\.jpg"):
        found.encoded(1)
    (tmp_path / "Icon\r").touch()
    FolderImages(tmp_path)
    assert all(record.getMessage().isprintable() for record in caplog.records)


def test_a_folder_that_goes_away_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, ["a/1.jpg", "b/1.jpg"])
    scandir = os.scandir

    def vanish(path: Path) -> "os._ScandirIterator[str]":
        if path.name == "b":
            (path / "1.jpg").unlink()
            path.rmdir()
        return scandir(path)

    monkeypatch.setattr(os, "scandir", vanish)
    with pytest.raises(DatasetError, match=rf"{tmp_path}/b "):
        FolderImages(tmp_path)


def test_a_list_is_read_from_its_folder_or_from_a_root(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    (tmp_path / "a.jpg").write_bytes(b"upper")
    (tmp_path / "lists" / "a.jpg").write_bytes(b"lower")
    path = tmp_path / "lists" / "x.lst"
    path.write_text(f"0\t0\ta.jpg\n1\t0\t{tmp_path}/lists/../a.jpg\n")
    listed = open_image_files(path)
    assert isinstance(listed, ListImages)
    assert [bytes(listed.encoded(index)) for index in (0, 1)] == [b"lower", b"upper"]
    rooted = open_image_files(path, root=tmp_path)
    assert bytes(rooted.encoded(0)) == b"upper"
    assert rooted.describe(0) == f"{tmp_path}/a.jpg"


def test_a_list_whose_files_are_elsewhere_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("".join(f"{n}.jpg,0\n" for n in range(300)))
    with pytest.raises(DatasetError, match=rf"x\.csv.* 300 .*{tmp_path}/0\.jpg.*data\.list_root"):
        ListImages(tmp_path / "x.csv")
    (tmp_path / "150.jpg").write_bytes(b"image")
    assert len(ListImages(tmp_path / "x.csv")) == 300


def test_a_single_file_that_is_missing_is_named_when_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "0.jpg").write_bytes(b"image")
    (tmp_path / "x.csv").write_text("0.jpg,0\n1.jpg,0\n")
    images = ListImages(tmp_path / "x.csv")
    assert images.encoded(0) == b"image"
    with pytest.raises(DatasetError, match=rf"{tmp_path}/1\.jpg.*x\.csv"):
        images.encoded(1)
