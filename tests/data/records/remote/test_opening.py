"""Opening remote files: their indexes and labels, and other things at a URL."""

import errno
import multiprocessing
import os
import stat
import sys
import threading
import time
import zlib
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from multiprocessing.connection import Connection
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fsspec.registry import _registry

from data.datasets.dataset import open_dataset
from data.datasets.sources import open_record_file
from data.records.format import RecordError, pack_record
from data.records.index import open_index
from data.records.labels import PROBED_WHEN_REMOTE, read_images
from data.records.reader import RecordFile
from data.records.remote.local_copies import local_folder
from data.records.remote.ranges import RemoteError, RemoteObject
from data.records.remote.reader import RemoteRecordFile
from data.records.writer import RecordWriter
from tests.data.records.remote.store import BLOCK, Store, opened, sizes


def test_a_file_without_an_index_is_read_once(local: RecordFile, store: Store) -> None:
    (Path(local.path).parent / "train.idx").unlink()
    store.put(Path(local.path).parent)
    for opening in range(2):
        file = RemoteRecordFile(
            "memory://faces/train.rec", block_bytes=BLOCK, cache_bytes=8 * BLOCK
        )
        store.take_requests()
        index = open_index(file)
        labels = file.headers(index.offsets).labels
        assert index.offsets.tolist() == local.scan().tolist()
        assert labels[:, 0].tolist() == [key % 7 for key in range(400)]
        asked = store.take_requests()
        if opening == 0:
            assert asked[-1][1] == file.size
            assert sum(sizes(asked)) < file.size + 2000  # and the last record
        else:
            assert len(asked) == 1


def test_a_folder_that_another_process_just_created_is_kept(
    local: RecordFile, store: Store, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = RemoteObject(store.put(Path(local.path).parent) + "/train.rec")
    expected = local_folder(cache, source)
    for folder in (expected, expected.with_name("of another content")):
        folder.mkdir(exist_ok=True)
        (folder / "lock").touch()
    # As if the process had looked just before another one created the folder.
    monkeypatch.setattr(Path, "is_dir", lambda path: path != expected)
    assert local_folder(cache, source) == expected
    assert [path.name for path in expected.parent.glob("*/*")] == ["lock"]


@pytest.mark.parametrize("index", [True, False])
def test_a_full_disk_is_reported(
    index: bool, local: RecordFile, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(BytesIO):
        def write(self, data: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        def writelines(self, lines: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    if not index:
        (Path(local.path).parent / "train.idx").unlink()
    place = store.put(Path(local.path).parent)
    writes = Path.open
    monkeypatch.setattr(
        Path, "open", lambda path, mode="r", **k: Full() if mode == "x+b" else writes(path, mode)
    )
    with pytest.raises(RemoteError, match=r"train.*\(No space left.*data\.index_cache"):
        open_dataset(place)


def test_headers_are_read_in_few_requests_and_the_table_is_kept(
    local: RecordFile, store: Store
) -> None:
    assert len(open_dataset(store.put(Path(local.path).parent))) == 400
    asked = store.take_requests()
    assert len(asked) <= 4  # the start, the first record, the last, and all headers in one block
    dataset = open_dataset("memory://faces")
    assert len(store.take_requests()) == 1  # the start
    assert dataset.labels.tolist() == [key % 7 for key in range(400)]
    file = RemoteRecordFile("memory://faces/train.rec")
    few = local.scan()[[200, 0, 100, 100]]
    assert file.headers(few).ids.tolist() == [200, 0, 100, 100]


def _open(url: str, results: "SimpleQueue[int]") -> None:
    requests = 0
    fetch = RemoteObject.fetch

    def counted(self: RemoteObject, start: int, stop: int) -> Future[bytes]:
        nonlocal requests
        requests += 1
        time.sleep(0.05)
        return fetch(self, start, stop)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RemoteObject, "fetch", counted)
        results.put(requests if len(open_dataset(url)) == 400 else -1)


def test_of_several_processes_one_reads_the_headers(local: RecordFile) -> None:
    context = multiprocessing.get_context("fork")
    results: SimpleQueue[int] = context.SimpleQueue()
    url = f"file://{Path(local.path).parent}"
    workers = [context.Process(target=_open, args=(url, results)) for _ in range(4)]
    for worker in workers:
        worker.start()
    requests = sorted(results.get() for _ in workers)
    for worker in workers:
        worker.join(60)
    assert requests[0] >= 1
    assert sum(count > 2 for count in requests) == 1  # the others: the start, perhaps the index


def _hold(file: RemoteRecordFile, connection: Connection) -> None:
    with file.opening_lock():
        connection.send("held")
        connection.recv()


def test_a_killed_process_leaves_no_lock(local: RecordFile) -> None:
    file = RemoteRecordFile(f"file://{local.path}")
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    holder = context.Process(target=_hold, args=(file, there), daemon=True)
    holder.start()
    assert here.poll(60)
    threading.Timer(0.2, holder.kill).start()
    assert len(open_dataset(str(file.path))) == 400
    holder.join(60)


IDENTITIES = 4 * PROBED_WHEN_REMOTE


def write_identities(folder: Path, label: Callable[[int], int]) -> None:
    """Write the identity layout; the images of range i have the class `label(i)`."""
    folder.mkdir()
    with RecordWriter(folder / "train.rec") as writer:
        for key in range(1, 4 * IDENTITIES + 1):
            writer.write(key, pack_record(label((key - 1) // 4), key, bytes(300)))
        for identity in range(IDENTITIES):
            start = 4 * identity + 1
            key = 4 * IDENTITIES + 1 + identity
            writer.write(key, pack_record([start, start + 4], key, b""))
        last = 4 * IDENTITIES + 1
        writer.write(0, pack_record([last, last + IDENTITIES], 0, b""))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("label", "looks"),
    [
        (lambda i: i, 3 * PROBED_WHEN_REMOTE),
        (lambda i: i ^ 1, 3 * (PROBED_WHEN_REMOTE + IDENTITIES)),
    ],
    ids=["in_order", "out_of_order"],
)
def test_key_ranges_replace_most_images_headers(
    label: Callable[[int], int], looks: int, tmp_path: Path, store: Store
) -> None:
    write_identities(tmp_path / "faces", label)
    local = open_dataset(tmp_path / "faces")
    url = store.put(tmp_path / "faces") + "/train.rec"
    file = RemoteRecordFile(url, block_bytes=BLOCK, cache_bytes=8 * BLOCK)
    index = open_index(file)
    store.take_requests()
    images = read_images(file, index)
    assert images.labels.tolist() == local.labels.tolist()
    asked = store.take_requests()
    of_ranges = [span for span in asked if span[0] >= images.offsets[-1] + 300]
    assert len(of_ranges) <= IDENTITIES * 40 // BLOCK + 3  # with record 0
    assert len(asked) - len(of_ranges) <= looks
    assert sum(sizes(asked)) < 0.2 * file.size


def test_a_wrong_range_is_refused_when_its_images_are_read(tmp_path: Path, store: Store) -> None:
    # Identity 1 is not in the sample that is checked.
    write_identities(tmp_path / "faces", lambda identity: 2 if identity == 1 else identity)
    dataset = open_dataset(store.put(tmp_path / "faces"))
    assert len(dataset.encoded(0)) == 300
    with pytest.raises(RecordError, match=r"key 5, .* label 2 .* label 1 "):
        dataset.encoded(4)


def test_an_index_is_fetched_again_only_if_it_changed(
    local: RecordFile, store: Store, cache: Path
) -> None:
    index = Path(local.path).with_suffix(".idx")
    file = opened(store, local)
    first = file.index_path()
    assert first is not None
    assert first.read_bytes() == index.read_bytes()
    first.write_bytes(bytes(first.stat().st_size))  # shows whether it is used
    assert RemoteRecordFile(str(file.path)).index_path() == first
    assert not any(first.read_bytes())
    first.write_bytes(index.read_bytes()[: index.read_bytes().rindex(b"\n", 0, -1) + 1])
    assert RemoteRecordFile(str(file.path)).index_path() == first
    assert first.read_bytes() == index.read_bytes()
    store.files.pipe_file("/faces/train.idx", index.read_bytes())
    second = RemoteRecordFile(str(file.path)).index_path()
    assert second is not None
    assert second.read_bytes() == index.read_bytes()
    assert not first.exists()
    assert list(cache.glob("*train.idx*/*/train.idx")) == [second]


def test_a_cache_folder_that_cannot_be_created_is_reported(
    local: RecordFile, store: Store, cache: Path
) -> None:
    cache.parent.write_text("a file where the folder should be")
    with pytest.raises(RemoteError, match=r"memory://faces/train.*data\.index_cache"):
        open_dataset(store.put(Path(local.path).parent))


@pytest.mark.parametrize(
    ("content", "values"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid x\nsize 12\n",
            " 12 bytes",
        ),
        (b"", ""),
        (b"PK\x03\x04 a zip archive", "b'PK"),
        (None, ""),
    ],
)
def test_a_url_that_is_not_recordio_is_refused(
    content: bytes | None, values: str, store: Store
) -> None:
    if content is not None:
        store.files.pipe_file("/faces/train.rec", content)
    with pytest.raises(ValueError, match=rf"^memory://faces/train\.rec.*{values}"):
        open_record_file("memory://faces/train.rec")


def test_a_folder_is_refused(store: Store) -> None:
    store.files.pipe_file("/faces/a.rec/x", b"x")
    with pytest.raises(RemoteError, match=r"^memory://faces/a\.rec: .*directory .* 0 "):
        open_record_file("memory://faces/a.rec")


def test_unknown_urls_and_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RemoteError, match=r"^s4://b/train\.rec: .*s4;"):
        open_dataset("s4://b")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(_registry, "s3", raising=False)  # an earlier test's
    with pytest.raises(RemoteError, match=r"^s3://b/train\.rec: .*\.\[remote\]"):
        open_dataset("s3://b/train.rec")


def test_web_servers_without_ranges_are_refused(local: RecordFile) -> None:
    handler = partial(QuietHandler, directory=str(Path(local.path).parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/train.rec"
        with pytest.raises(RemoteError, match=rf"^{url}.* {local.size} bytes"):
            open_record_file(url)
        server.shutdown()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name it has there
        pass


# Caches that somebody else made or damaged


@pytest.fixture
def scanned(local: RecordFile, store: Store, cache: Path) -> Path:
    """Return the folder with what was kept of a remote file without an index."""
    (Path(local.path).parent / "train.idx").unlink()
    store.put(Path(local.path).parent)
    assert RemoteRecordFile("memory://faces/train.rec").scan().tolist() == local.scan().tolist()
    (scan,) = cache.glob("*/*/scan")
    return scan.parent


def summed(content: bytes) -> bytes:
    return content + zlib.crc32(content).to_bytes(4, "little")


def saved(array: Any, **options: Any) -> bytes:
    file = BytesIO()
    np.save(file, array, **options)
    return summed(file.getvalue())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        saved(np.arange(0, 4000, 8))[:-9],
        saved(np.arange(0, 4000, 8)),  # more than there are headers
        saved(np.arange(0, 3200, 8.0)),
        saved(np.array([[0]])),
        saved(np.arange(0, 3200, 8) + 1),
        saved(np.arange(3192, -8, -8)),
        saved(np.arange(-8, 3192, 8)),
        saved(np.arange(400) * 1_000_000),
        saved(np.array([print] * 400), allow_pickle=True),
        summed(b"\x93NUMPY\x01\x00v\0{'descr': '<i8', 'fortran_order': False, 'shape': (9**99,)}"),
    ],
    ids=[
        "empty", "cut", "too_many", "floats", "matrix", "odd", "descending", "negative", "outside",
        "pickle", "huge",
    ],
)  # fmt: skip
def test_a_scan_of_bad_content_is_made_again(
    content: bytes, scanned: Path, local: RecordFile
) -> None:
    whole = (scanned / "scan").read_bytes()
    (scanned / "scan").write_bytes(content)
    file = RemoteRecordFile("memory://faces/train.rec")
    assert file.scan().tolist() == local.scan().tolist()
    assert (scanned / "scan").read_bytes() == whole


def test_a_flipped_bit_of_the_headers_changes_no_label(scanned: Path, local: RecordFile) -> None:
    headers = bytearray((scanned / "headers").read_bytes())
    headers[15] ^= 1
    (scanned / "headers").write_bytes(headers)
    dataset = open_dataset("memory://faces")
    assert dataset.labels.tolist() == [key % 7 for key in range(400)]


@pytest.mark.parametrize("name", ["", "train.idx", "scan", "headers", "lock"])
def test_planted_links_lead_nowhere(
    name: str, local: RecordFile, store: Store, cache: Path, tmp_path: Path
) -> None:
    if name in ("scan", "headers"):
        (Path(local.path).parent / "train.idx").unlink()
    url = store.put(Path(local.path).parent)
    source = RemoteObject(f"{url}/train.{'idx' if name == 'train.idx' else 'rec'}")
    planted = local_folder(cache, source) / name
    mine = tmp_path / "mine"
    (mine / "documents").mkdir(parents=True)
    (mine / "documents" / "file").write_text("precious")
    if name:
        planted.symlink_to(mine / "documents" / "file")
    else:  # the folder of all states of the file
        planted.rmdir()
        planted.parent.rmdir()
        planted.parent.symlink_to(mine)
    if name in ("", "lock"):
        with pytest.raises(RemoteError) as caught:
            open_dataset(url)
        assert str(planted.parent) in str(caught.value)
    else:
        assert open_dataset(url).labels.tolist() == [key % 7 for key in range(400)]
    assert [path.name for path in mine.rglob("*")] == ["documents", "file"]
    assert (mine / "documents" / "file").read_text() == "precious"


def test_a_folder_of_somebody_else_is_refused(
    local: RecordFile, store: Store, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = store.put(Path(local.path).parent)
    open_dataset(url)
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    with pytest.raises(RemoteError) as caught:
        open_dataset(url)
    assert str(cache) in str(caught.value)
    assert f" {uid}," in str(caught.value)


def test_a_team_shares_a_folder(local: RecordFile, store: Store, tmp_path: Path) -> None:
    team = tmp_path / "team"
    team.mkdir()
    team.chmod(0o2775)
    url = store.put(Path(local.path).parent)
    assert len(open_dataset(url, cache_folder=team)) == 400
    folders = [path for path in team.rglob("*") if path.is_dir()]
    assert len(folders) == 4
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in folders} == {0o2775}
    assert {stat.S_IMODE(lock.stat().st_mode) for lock in team.rglob("lock")} == {0o664}
