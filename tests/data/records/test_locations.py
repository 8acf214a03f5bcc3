import os
import pwd
import tempfile
from pathlib import Path

import pytest

from data.datasets.sources import open_sources
from data.records.locations import (
    DatasetError,
    LocationKind,
    default_cache_folder,
    expand,
    fingerprint,
    folder_of,
    is_glob,
    is_url,
    location_kind,
    record_url,
    same_file_key,
    short_names,
    sibling,
    storage_paths,
)


def test_every_location_is_of_one_kind(tmp_path: Path) -> None:
    for folder, names in {
        "records": ["train.rec", "x.jpg"],
        "faces": ["x.jpg"],
        "list.csv": [],
        "train.rec": [],
    }.items():
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).touch()
    for name in ("a.rec", "a.LST", "a.txt", "a.jpg", "[a].rec"):
        (tmp_path / name).touch()
    kinds = {
        "a.rec": LocationKind.RECORDS,
        "[a].rec": LocationKind.RECORDS,
        "*.rec": LocationKind.RECORDS,
        "nothing-*": LocationKind.RECORDS,
        "records": LocationKind.RECORDS,
        "faces": LocationKind.FOLDER,
        "list.csv": LocationKind.FOLDER,
        "train.rec": LocationKind.FOLDER,
        "a.LST": LocationKind.LIST,
        "a.txt": LocationKind.LIST,
        "a.jpg": None,
        "absent.rec": None,
        "absent.csv": None,
    }
    assert {name: location_kind(tmp_path / name) for name in kinds} == kinds
    assert location_kind("s3://bucket/faces") is LocationKind.URL
    assert location_kind("s3://bucket/train-*.rec") is LocationKind.RECORDS


@pytest.mark.parametrize("name", ["x" * 300, "[" + "x" * 300, "a\0b", "d/" * 2050 + "x", "\udc80"])
def test_a_name_that_no_file_has_is_no_location(name: str) -> None:
    assert location_kind(Path(name)) in (None, LocationKind.RECORDS)  # a pattern
    with pytest.raises(DatasetError):
        open_sources(name)


def test_the_url_of_a_folder_stands_for_the_records_in_it() -> None:
    assert record_url("s3://bucket/faces/") == "s3://bucket/faces/train.rec"
    assert record_url("s3://bucket/faces") == "s3://bucket/faces/train.rec"
    assert record_url("s3://bucket/x.rec") == "s3://bucket/x.rec"


@pytest.mark.parametrize(
    ("locations", "names"),
    [
        (["/data/ms1m v3", "web.2/"], ["ms1m_v3", "web_2"]),
        (["/a/train.rec", "/b/train.rec", "/b/x"], ["a_train", "b_train", "b_x"]),
        (["/a/train-*.rec", "s3://bucket/faces/test.rec?sig=x"], ["train", "test"]),
        (["/a/people.csv"], ["people"]),
        (["https://h/x?a=1 [0]", "https://h/x?a=2 [1]"], ["x_1", "x_2"]),
        ([], []),
    ],
)
def test_short_names_are_the_ends_of_paths_that_differ(
    locations: list[str], names: list[str]
) -> None:
    assert short_names(locations) == names


def test_a_pattern_is_expanded_in_the_order_of_the_names(tmp_path: Path) -> None:
    for name in ("train-2.rec", "train-10.rec", "train-1.rec", "other.rec", "train-1.idx"):
        (tmp_path / name).touch()
    pattern = tmp_path / "train-*.rec"
    assert is_glob(pattern)
    names = [Path(path).name for path in expand(pattern)]
    assert names == ["train-1.rec", "train-10.rec", "train-2.rec"]


def test_an_existing_folder_is_not_a_pattern(tmp_path: Path) -> None:
    (tmp_path / "faces[v2]").mkdir()
    assert not is_glob(tmp_path / "faces[v2]")
    assert is_glob(tmp_path / "faces[v3]")


def test_a_fingerprint_changes_with_size_and_with_time(tmp_path: Path) -> None:
    path = tmp_path / "x.rec"
    fingerprints = set()
    for content, nanoseconds in ((b"abc", 7), (b"abc", 8), (b"abcd", 8)):
        path.write_bytes(content)
        os.utime(path, ns=(5, 1_000_000_000 + nanoseconds))
        fingerprints.add(fingerprint(path.stat()))
    assert len(fingerprints) == 3


def test_links_lead_to_the_same_file(tmp_path: Path) -> None:
    (tmp_path / "a.rec").write_bytes(b"a")
    (tmp_path / "b.rec").write_bytes(b"a")
    (tmp_path / "symbolic.rec").symlink_to("a.rec")
    os.link(tmp_path / "a.rec", tmp_path / "hard.rec")
    key = same_file_key(tmp_path / "a.rec")
    assert same_file_key(tmp_path / "symbolic.rec") == key
    assert same_file_key(tmp_path / "hard.rec") == key
    assert same_file_key(tmp_path / "b.rec") != key


def test_a_file_is_stored_at_its_location_or_under_a_name_of_its_own(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    paths = [
        storage_paths(tmp_path / "train.idx", cache),
        storage_paths(tmp_path / "a" / "train.idx", cache),
        storage_paths(tmp_path / "train.idx", cache, "5:7"),
    ]
    assert [first for first, _ in paths] == [
        tmp_path / "train.idx",
        tmp_path / "a" / "train.idx",
        tmp_path / "train.idx",
    ]
    cached = {path for _, path in paths}
    assert len(cached) == 3
    assert {path.parent for path in cached} == {cache}
    assert all(path.name.endswith("-train.idx") for path in cached)
    (only,) = storage_paths("s3://bucket/train.idx", cache)
    assert only.parent == cache
    assert storage_paths("s3://bucket/train.idx", None) == [default_cache_folder() / only.name]


def test_the_cache_folder_follows_the_standard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/some/cache")
    assert default_cache_folder() == Path("/some/cache/partialfc")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/someone")
    assert default_cache_folder() == Path("/home/someone/.cache/partialfc")


def test_a_user_without_a_home_has_a_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(number: int) -> pwd.struct_passwd:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    folder = default_cache_folder()
    assert folder == Path(tempfile.gettempdir()) / f"partialfc-{os.getuid()}"


def test_a_sibling_has_another_suffix(tmp_path: Path) -> None:
    assert sibling(tmp_path / "train-0.5.rec", ".idx") == tmp_path / "train-0.5.idx"
    assert sibling("s3://bucket/train.rec", ".idx.cache") == "s3://bucket/train.idx.cache"


def test_the_folder_of_a_dataset_is_the_dataset_or_its_parent(tmp_path: Path) -> None:
    (tmp_path / "a[1]").mkdir()
    assert folder_of(tmp_path) == tmp_path
    assert folder_of(tmp_path / "train.rec") == tmp_path
    assert folder_of(tmp_path / "train-*.rec") == tmp_path
    assert folder_of(tmp_path / "part-*" / "train.rec") == tmp_path
    assert folder_of(tmp_path / "a[1]" / "train.rec") == tmp_path / "a[1]"
    with pytest.raises(DatasetError, match=r"^s3://bucket/faces "):
        folder_of("s3://bucket/faces")


def test_a_url_is_not_a_path() -> None:
    url = "s3://bucket/train.rec"
    assert is_url(url)
    assert not is_url(Path(url))
    assert same_file_key(url) == url
    assert not is_glob("https://host/train.rec?version=[2]")
    assert is_glob("s3://bucket/train-*.rec")
    with pytest.raises(DatasetError, match=r"^s3://bucket/train-\*\.rec: .*data\.train"):
        expand("s3://bucket/train-*.rec")
