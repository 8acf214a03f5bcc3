import logging
import multiprocessing
import os
import pickle
from collections.abc import Callable
from multiprocessing.context import ForkContext, SpawnContext
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import numpy as np
import pytest

from data.records.cache import MappedTable, open_images
from data.records.format import pack_record
from data.records.labels import ImageTable
from data.records.reader import RecordFile
from data.records.writer import RecordWriter, write_face_records

CLASSES = [0, 0, 0, 1, 2, 2, 2, 2, 2, 3, 3]


@pytest.fixture
def rec(tmp_path: Path) -> Path:
    """Return records of which a change is always seen, however coarse the clock of the files is."""
    (tmp_path / "data").mkdir()
    write_face_records(tmp_path / "data", ((label, b"image") for label in CLASSES))
    for file in (tmp_path / "data").iterdir():
        os.utime(file, ns=(10**18, 10**18))
    return tmp_path / "data" / "train.rec"


def open_cached(rec: Path) -> ImageTable:
    folder = rec.parent.parent / "cache"
    return open_images(RecordFile(rec), cache_folder=folder, cache_from=0)


def cache_of(rec: Path) -> Path:
    return rec.with_suffix(".idx.cache")


def plain(table: ImageTable) -> tuple[list[int], list[int], list[int]]:
    return list(table.keys), table.offsets.tolist(), table.labels.tolist()


def test_the_table_is_cached_beside_the_index_and_mapped(rec: Path) -> None:
    fresh = open_images(RecordFile(rec))
    assert not isinstance(fresh, MappedTable)  # too few images to be worth a file
    assert not cache_of(rec).exists()
    for _ in range(2):  # when it is made, and when it is found
        table = open_cached(rec)
        assert isinstance(table, MappedTable)
        assert plain(table) == plain(fresh)
        assert table.keys == range(1, 12)
        assert table.offsets.dtype == np.int64
        assert table.labels.dtype == np.int32
        assert table.has_header
    assert {path.name for path in rec.parent.iterdir()} >= {"train.idx", "train.idx.cache"}


def test_what_is_cached_is_not_read_again(rec: Path) -> None:
    open_cached(rec)
    state = rec.with_suffix(".idx").stat()
    rec.with_suffix(".idx").write_bytes(bytes(state.st_size))  # garbage of the same size and time
    os.utime(rec.with_suffix(".idx"), ns=(state.st_atime_ns, state.st_mtime_ns))
    assert open_cached(rec).labels.tolist() == CLASSES


@pytest.mark.parametrize("keys", [[7, 2, 4], [4, 5, 6], [2**40]])
def test_other_keys_come_back_too(keys: list[int], tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with RecordWriter(tmp_path / "data" / "x.rec") as writer:
        for key in keys:
            writer.write(key, pack_record(key % 3, key, b"image"))
    for _ in range(2):
        table = open_cached(tmp_path / "data" / "x.rec")
        assert list(table.keys) == keys
        assert isinstance(table.keys, range) == (keys != [7, 2, 4])
        assert not table.has_header
        assert table.labels.tolist() == [key % 3 for key in keys]


def rewrite(rec: Path) -> None:
    rec.write_bytes(rec.read_bytes())
    os.utime(rec, ns=(10**18, 10**18 + 1))


def rewrite_index(rec: Path) -> None:
    lines = rec.with_suffix(".idx").read_text().splitlines()
    rec.with_suffix(".idx").write_text("\n".join(reversed(lines)) + "\n")
    os.utime(rec.with_suffix(".idx"), ns=(10**18, 10**18 + 1))


def lengthen_index(rec: Path) -> None:
    rec.with_suffix(".idx").write_bytes(rec.with_suffix(".idx").read_bytes().rstrip())
    os.utime(rec.with_suffix(".idx"), ns=(10**18, 10**18))


@pytest.mark.parametrize("change", [rewrite, rewrite_index, lengthen_index])
def test_a_cache_of_another_state_is_made_again(
    change: Callable[[Path], None], rec: Path, caplog: pytest.LogCaptureFixture
) -> None:
    open_cached(rec)
    change(rec)
    with caplog.at_level(logging.INFO):
        assert open_cached(rec).labels.tolist() == CLASSES
    assert "train.idx.cache was made from another state" in caplog.text
    caplog.clear()
    open_cached(rec)
    assert "another state" not in caplog.text


def test_a_cache_does_not_hide_that_the_records_were_replaced(rec: Path) -> None:
    open_cached(rec)
    write_face_records(rec.parent, ((label, b"other") for label in [0, 1, 2]))
    assert open_cached(rec).labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "garbage"])
def test_a_damaged_cache_is_told_and_made_again(
    damage: str, rec: Path, caplog: pytest.LogCaptureFixture
) -> None:
    open_cached(rec)
    whole = cache_of(rec).read_bytes()
    flipped = bytearray(whole)
    flipped[-70] ^= 1
    contents = {"cut": whole[:-64], "empty": b"", "garbage": b"x" * 500}
    cache_of(rec).write_bytes(contents.get(damage, bytes(flipped)))
    with caplog.at_level(logging.WARNING):
        assert open_cached(rec).labels.tolist() == CLASSES
    assert "train.idx.cache" in caplog.text
    assert "making it again" in caplog.text
    assert cache_of(rec).read_bytes() == whole


def test_where_the_folder_takes_no_files_the_cache_folder_does(rec: Path) -> None:
    rec.parent.chmod(0o555)
    try:
        for _ in range(2):
            assert isinstance(open_cached(rec), MappedTable)
            assert open_cached(rec).labels.tolist() == CLASSES
        assert not cache_of(rec).exists()
        (kept,) = (rec.parent.parent / "cache").iterdir()
        assert kept.name.endswith("-train.idx.cache")
        kept.unlink()
        kept.parent.chmod(0o555)
        assert not isinstance(open_cached(rec), MappedTable)
        assert list(kept.parent.iterdir()) == []
    finally:
        rec.parent.chmod(0o755)
        kept.parent.chmod(0o755)


def test_a_missing_index_and_the_cache_are_made_at_once(rec: Path) -> None:
    expected = plain(open_cached(rec))
    rec.with_suffix(".idx").unlink()
    cache_of(rec).unlink()
    assert plain(open_cached(rec)) == expected
    assert isinstance(open_cached(rec), MappedTable)
    assert rec.with_suffix(".idx").exists()


def _open_and_report(rec: Path, results: "SimpleQueue[list[int]]") -> None:
    results.put(open_cached(rec).labels.tolist())


def test_processes_that_make_the_cache_at_once_do_not_disturb_each_other(rec: Path) -> None:
    rec.with_suffix(".idx").unlink()
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    workers = [context.Process(target=_open_and_report, args=(rec, results)) for _ in range(6)]
    for worker in workers:
        worker.start()
    assert [results.get() for _ in workers] == [CLASSES] * 6
    for worker in workers:
        worker.join(60)
    names = sorted(path.name for path in rec.parent.iterdir())
    assert names == ["property", "train.idx", "train.idx.cache", "train.rec"]


CONTEXTS: dict[str, ForkContext | SpawnContext] = {
    "fork": multiprocessing.get_context("fork"),
    "spawn": multiprocessing.get_context("spawn"),
}


def _report(table: ImageTable, results: "SimpleQueue[list[int]]") -> None:
    results.put(table.labels.tolist())


@pytest.mark.parametrize("method", CONTEXTS)
def test_workers_map_the_same_table(method: str, rec: Path) -> None:
    table = open_cached(rec)
    assert len(pickle.dumps(table)) < 300
    results = CONTEXTS[method].SimpleQueue()
    worker = CONTEXTS[method].Process(target=_report, args=(table, results))
    worker.start()
    assert results.get() == CLASSES
    worker.join(60)
    assert worker.exitcode == 0
