import multiprocessing
import os
import stat
import threading
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from data.files import (
    OutputFolderError,
    WriteError,
    atomic_folder,
    atomic_write,
    check_space,
    file_lock,
    is_free,
    make_output_folder,
    publish,
    refuse_lfs_pointer,
    writing,
)

# Files that appear whole


def write(path: Path, content: bytes) -> None:
    with atomic_write(path) as file:
        file.write(content)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    def fail() -> None:
        with atomic_write(tmp_path / "x") as file:
            file.write(b"half")
            raise RuntimeError

    write(tmp_path / "x", b"old")
    with pytest.raises(RuntimeError):
        fail()
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_the_content_is_on_the_disk_before_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    waited: list[tuple[bool, int, bool]] = []  # for a file or a folder, its size, is x there

    def sync(handle: int) -> None:
        status = os.fstat(handle)
        waited.append((stat.S_ISREG(status.st_mode), status.st_size, path.exists()))

    monkeypatch.setattr(os, "fsync", sync)
    write(path, bytes(1000))
    assert waited[0] == (True, 1000, False)
    assert [(is_file, exists) for is_file, _, exists in waited[1:]] == [(False, True)]


def test_a_new_file_has_the_permissions_of_the_umask(tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        write(tmp_path / "x", b"content")
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640


def test_many_writers_at_once_leave_one_whole_file(tmp_path: Path) -> None:
    contents = [bytes([number]) * 1_000_000 for number in range(8)]
    threads = [
        threading.Thread(target=write, args=(tmp_path / "x", content)) for content in contents
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    (path,) = tmp_path.iterdir()
    assert path.read_bytes() in contents


def test_a_folder_is_published_over_an_empty_one_only(tmp_path: Path) -> None:
    (tmp_path / "partial").mkdir()
    (tmp_path / "partial" / "x").touch()
    (tmp_path / "empty").mkdir()
    publish(tmp_path / "partial", tmp_path / "empty")
    assert [path.name for path in (tmp_path / "empty").iterdir()] == ["x"]
    (tmp_path / "other").mkdir()
    with pytest.raises(OSError, match="empty"):
        publish(tmp_path / "other", tmp_path / "empty")


def test_a_write_error_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "absent" / "x"
    with pytest.raises(WriteError) as caught, writing(path):
        write(path, b"content")
    assert str(path) in str(caught.value)
    assert isinstance(caught.value.__cause__, FileNotFoundError)


# Output folders


def test_an_output_folder_is_made_or_may_be_empty(tmp_path: Path) -> None:
    for _ in range(2):
        make_output_folder(tmp_path / "a" / "b")
        assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file"):
        with pytest.raises(OutputFolderError) as caught:
            make_output_folder(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_appears_when_it_is_whole(exists: bool, tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    if exists:
        folder.mkdir(parents=True)
    with atomic_folder(folder) as partial:
        (partial / "file").write_bytes(b"content")
        assert is_free(folder)
    assert not is_free(folder)
    assert [path.name for path in folder.parent.iterdir()] == ["b"]
    assert (folder / "file").read_bytes() == b"content"


def test_a_folder_that_failed_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with atomic_folder(tmp_path / "a") as partial:
            (partial / "file").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a", "a.partial"])
def test_a_folder_in_the_way_is_refused_and_left_alone(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "mine").touch()
    with (
        pytest.raises(OutputFolderError, match=f"{tmp_path / name} "),
        atomic_folder(tmp_path / "a"),
    ):
        pass
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("mine")] == [Path(name, "mine")]


def test_a_disk_without_room_is_refused(tmp_path: Path) -> None:
    check_space(tmp_path / "not" / "there", 1)
    with pytest.raises(WriteError, match=rf"{tmp_path}/not/there.* 1,152,921,504,606,846,976 "):
        check_space(tmp_path / "not" / "there", 1 << 60)


# Locks


def hold(path: Path, connection: Connection) -> None:
    with file_lock(path):
        connection.send("held")
        connection.recv()


def test_a_lock_is_held_by_one_process_and_freed_when_that_is_killed(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    holder = context.Process(target=hold, args=(tmp_path / "lock", there), daemon=True)
    holder.start()
    assert here.poll(60)
    with pytest.raises(BlockingIOError), file_lock(tmp_path / "lock", wait=False):
        pass
    threading.Timer(0.2, holder.kill).start()
    with file_lock(tmp_path / "lock"):
        holder.join(60)
        assert holder.exitcode is not None
    with file_lock(tmp_path / "lock", wait=False):
        pass


def test_a_planted_link_is_no_lock(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    (tmp_path / "lock").symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match="lock"), file_lock(tmp_path / "lock"):
        pass
    assert (tmp_path / "mine").read_text() == "precious"


# Git LFS pointers


@pytest.mark.parametrize("size", ["", "size 268322544\n"])
def test_a_git_lfs_pointer_is_refused(size: str) -> None:
    start = f"version https://git-lfs.github.com/spec/v1\noid sha256:1\n{size}".encode()
    with pytest.raises(WriteError) as caught:
        refuse_lfs_pointer("s3://faces/x.rec", start, WriteError)
    assert "s3://faces/x.rec" in str(caught.value)
    assert ("268,322,544" in str(caught.value)) == bool(size)
    refuse_lfs_pointer("x.rec", b"other content", WriteError)
