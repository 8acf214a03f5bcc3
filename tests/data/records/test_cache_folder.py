import os
import stat
from pathlib import Path

import pytest

from data.records.cache_folder import (
    check_cache_folder,
    is_own,
    make_cache_folder,
    make_inner_folder,
    open_cached,
)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "partialfc"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_users_own_folder_is_private(own: Path) -> None:
    for _ in range(2):
        make_cache_folder(own)
        assert mode(own) == 0o700
    make_inner_folder(own / "inner")
    assert mode(own / "inner") == 0o700
    (own / "inner" / "file").write_bytes(b"content")
    with open_cached(own / "inner" / "file") as file:
        assert file.read() == b"content"
    assert is_own(own / "inner" / "file")
    assert not is_own(own.parent)


@pytest.mark.parametrize("others", [0o720, 0o702, 0o777])
def test_one_that_others_may_write_to_is_refused(others: int, own: Path) -> None:
    make_cache_folder(own)
    (own / "file").touch()
    own.chmod(others)
    for call in (make_cache_folder, check_cache_folder):
        with pytest.raises(PermissionError) as caught:
            call(own)
        assert f" {others:o}:" in str(caught.value)
    with pytest.raises(PermissionError):
        open_cached(own / "file")


def test_one_of_another_user_is_refused(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_cache_folder(own)
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    with pytest.raises(PermissionError) as caught:
        make_cache_folder(own)
    assert caught.value.filename == str(own)


def test_a_link_of_another_user_is_refused(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "disk").mkdir(mode=0o700)
    own.parent.mkdir()
    own.symlink_to(tmp_path / "disk")
    make_cache_folder(own)  # the user's own link, to a larger disk
    found = os.stat_result([0o120777, 0, 0, 1, os.geteuid() + 1, 0, 0, 0, 0, 0])
    monkeypatch.setattr(Path, "lstat", lambda path: found)
    with pytest.raises(PermissionError):
        make_cache_folder(own)


def test_a_folder_that_was_named_may_be_a_teams(own: Path, tmp_path: Path) -> None:
    team = tmp_path / "team"
    make_cache_folder(team)
    for stated, inner in ((0o2775, 0o2775), (0o777, 0o777), (0o1777, 0o755)):
        team.chmod(stated)
        make_cache_folder(team)
        make_inner_folder(team / f"{stated:o}")
        assert mode(team / f"{stated:o}") == inner


@pytest.mark.parametrize("is_private", [True, False])
def test_links_and_pipes_are_refused(is_private: bool, own: Path, tmp_path: Path) -> None:
    folder = own if is_private else tmp_path / "team"
    make_cache_folder(folder)
    (tmp_path / "elsewhere").mkdir()
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionError):
        make_inner_folder(folder / "link")
    os.mkfifo(folder / "pipe")
    for name in ("link", "pipe"):
        with pytest.raises(OSError, match=name):
            open_cached(folder / name)
    with pytest.raises(FileNotFoundError):
        open_cached(folder / "absent")
