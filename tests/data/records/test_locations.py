import os
import pwd
import tempfile
from pathlib import Path

import pytest

from data.records.locations import (
    DatasetError,
    beside,
    cache_name,
    default_cache_folder,
    expand,
    folder_of,
    is_glob,
    is_url,
    places_beside,
    same_file_key,
    stamp,
)


def test_a_pattern_is_expanded_in_the_order_of_the_names(tmp_path: Path) -> None:
    for name in ("train-2.rec", "train-10.rec", "train-1.rec", "other.rec", "train-1.idx"):
        (tmp_path / name).touch()
    pattern = tmp_path / "train-*.rec"
    assert is_glob(pattern)
    names = [Path(path).name for path in expand(pattern)]
    assert names == ["train-1.rec", "train-10.rec", "train-2.rec"]


def test_a_folder_whose_name_looks_like_a_pattern_is_itself(tmp_path: Path) -> None:
    (tmp_path / "faces[v2]").mkdir()
    assert not is_glob(tmp_path / "faces[v2]")
    assert is_glob(tmp_path / "faces[v3]")


def test_a_stamp_changes_with_size_and_with_time(tmp_path: Path) -> None:
    path = tmp_path / "x.rec"
    stamps = set()
    for content, nanoseconds in ((b"abc", 7), (b"abc", 8), (b"abcd", 8)):
        path.write_bytes(content)
        os.utime(path, ns=(5, 1_000_000_000 + nanoseconds))
        stamps.add(stamp(path.stat()))
    assert len(stamps) == 3


def test_links_lead_to_the_same_file(tmp_path: Path) -> None:
    (tmp_path / "a.rec").write_bytes(b"a")
    (tmp_path / "b.rec").write_bytes(b"a")
    (tmp_path / "symbolic.rec").symlink_to("a.rec")
    os.link(tmp_path / "a.rec", tmp_path / "hard.rec")
    key = same_file_key(tmp_path / "a.rec")
    assert same_file_key(tmp_path / "symbolic.rec") == key
    assert same_file_key(tmp_path / "hard.rec") == key
    assert same_file_key(tmp_path / "b.rec") != key


def test_cached_things_of_different_files_have_different_names(tmp_path: Path) -> None:
    names = {
        cache_name(tmp_path / "train.rec"),
        cache_name(tmp_path / "a" / "train.rec"),
        cache_name(tmp_path / "train.rec", "5:7"),
    }
    assert len(names) == 3
    assert all(name.endswith("-train.rec") for name in names)


def test_the_cache_folder_follows_the_standard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/some/cache")
    assert default_cache_folder() == Path("/some/cache/partialfc")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/someone")
    assert default_cache_folder() == Path("/home/someone/.cache/partialfc")


def test_a_user_without_a_home_has_a_cache_folder_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(number: int) -> pwd.struct_passwd:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    folder = default_cache_folder()
    assert folder == Path(tempfile.gettempdir()) / f"partialfc-{os.getuid()}"


def test_the_index_lies_beside_the_records(tmp_path: Path) -> None:
    assert beside(tmp_path / "train-0.5.rec", ".idx") == tmp_path / "train-0.5.idx"


def test_the_folder_of_a_dataset_is_itself_or_its_parent(tmp_path: Path) -> None:
    (tmp_path / "a[1]").mkdir()
    assert folder_of(tmp_path) == tmp_path
    assert folder_of(tmp_path / "train.rec") == tmp_path
    assert folder_of(tmp_path / "train-*.rec") == tmp_path
    assert folder_of(tmp_path / "part-*" / "train.rec") == tmp_path
    assert folder_of(tmp_path / "a[1]" / "train.rec") == tmp_path / "a[1]"
    with pytest.raises(DatasetError, match=r"^s3://bucket/faces is in no folder"):
        folder_of("s3://bucket/faces")


def test_a_url_stays_a_url(tmp_path: Path) -> None:
    url = "s3://bucket/train.rec"
    assert is_url(url)
    assert not is_url(Path(url))
    assert beside(url, ".idx.cache") == "s3://bucket/train.idx.cache"
    assert places_beside(url, tmp_path) == [tmp_path]
    assert places_beside(Path("x.idx"), tmp_path) == [Path("x.idx"), tmp_path]
    assert same_file_key(url) == url
    assert not is_glob("https://host/train.rec?version=[2]")
    assert is_glob("s3://bucket/train-*.rec")
    with pytest.raises(DatasetError, match=r"^s3://bucket/train-\*\.rec: .* data\.merge: by_name"):
        expand("s3://bucket/train-*.rec")
