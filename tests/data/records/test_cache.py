import json
import logging
import multiprocessing
import os
import zlib
from collections.abc import Callable
from io import BytesIO
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.records.cache import open_images
from data.records.format import pack_record
from data.records.labels import ImageTable
from data.records.reader import RecordFile
from data.records.writer import RecordWriter, write_face_records

CLASSES = [0, 0, 0, 1, 2, 2, 2, 2, 2, 3, 3]


@pytest.fixture
def rec(tmp_path: Path) -> Path:
    """Return old records: a change shows however coarse the file system's clock is."""
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


def is_mapped(table: ImageTable) -> bool:
    return not table.labels.flags.writeable and not table.offsets.flags.writeable


def plain(table: ImageTable) -> tuple[list[int], list[int], list[int]]:
    return list(table.keys), table.offsets.tolist(), table.labels.tolist()


def test_the_table_is_cached_next_to_the_index_and_mapped(rec: Path) -> None:
    fresh = open_images(RecordFile(rec))
    assert not is_mapped(fresh)  # too few images to be worth a file
    assert not cache_of(rec).exists()
    for _ in range(2):  # when it is made, and when it is found
        table = open_cached(rec)
        assert is_mapped(table)
        assert table.offsets.ctypes.data % 64 == 0
        assert plain(table) == plain(fresh)
        assert table.keys == range(1, 12)
        assert table.offsets.dtype == np.int64
        assert table.labels.dtype == np.int32
        assert table.has_header
    assert {path.name for path in rec.parent.iterdir()} >= {"train.idx", "train.idx.cache"}


def test_a_cached_index_is_not_read_again(rec: Path) -> None:
    open_cached(rec)
    state = rec.with_suffix(".idx").stat()
    rec.with_suffix(".idx").write_bytes(bytes(state.st_size))  # zeros, of the same size and time
    os.utime(rec.with_suffix(".idx"), ns=(state.st_atime_ns, state.st_mtime_ns))
    assert open_cached(rec).labels.tolist() == CLASSES


@pytest.mark.parametrize("keys", [[7, 2, 4], [4, 5, 6], [2**40]])
def test_keys_in_any_order_are_cached(keys: list[int], tmp_path: Path) -> None:
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
def test_a_stale_cache_is_made_again(
    change: Callable[[Path], None], rec: Path, caplog: pytest.LogCaptureFixture
) -> None:
    open_cached(rec)
    change(rec)
    with caplog.at_level(logging.INFO):
        assert open_cached(rec).labels.tolist() == CLASSES
        assert [record.args for record in caplog.records] == [(cache_of(rec),)] * 2  # found, wrote
        caplog.clear()
        open_cached(rec)
    assert not caplog.records


def test_a_cache_does_not_hide_that_the_records_were_replaced(rec: Path) -> None:
    open_cached(rec)
    write_face_records(rec.parent, ((label, b"other") for label in [0, 1, 2]))
    assert open_cached(rec).labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"",
        lambda whole: bytes(len(whole)),
        lambda whole: b"x" * 500,
        lambda whole: whole[:-64],
        lambda whole: whole[:600] + bytes(64) + whole[664:],  # as after a power cut
    ],
    ids=["empty", "zeros", "garbage", "cut", "zeroed_page"],
)
def test_a_damaged_cache_is_logged_and_made_again(
    damage: Callable[[bytes], bytes], rec: Path, caplog: pytest.LogCaptureFixture
) -> None:
    open_cached(rec)
    whole = cache_of(rec).read_bytes()
    assert damage(whole) != whole
    cache_of(rec).write_bytes(damage(whole))
    with caplog.at_level(logging.WARNING):
        assert open_cached(rec).labels.tolist() == CLASSES
    assert str(cache_of(rec)) in caplog.text
    assert cache_of(rec).read_bytes() == whole


def test_a_flipped_bit_and_a_cut_anywhere_are_detected(
    rec: Path, caplog: pytest.LogCaptureFixture
) -> None:
    open_cached(rec)
    whole = cache_of(rec).read_bytes()
    for number, place in enumerate([*range(0, len(whole), 37), len(whole) - 1]):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << number % 8
        for content in (flipped, whole[:place]):
            caplog.clear()
            cache_of(rec).unlink()
            cache_of(rec).write_bytes(content)
            assert open_cached(rec).labels.tolist() == CLASSES
            assert len(caplog.records) == 1, place


def forged(table: ImageTable, **changes: Any) -> bytes:
    """Return a cache with a right checksum and a content that nobody wrote."""
    head = {"first_key": 1, "has_header": True, **changes.pop("head", {})}
    file = BytesIO()
    np.save(file, np.array(changes.pop("text", json.dumps(head))))
    for name in ("offsets", "labels"):
        np.save(file, changes.get(name, getattr(table, name)), allow_pickle=True)
    content = file.getvalue()
    return content + zlib.crc32(content).to_bytes(4, "little")


@pytest.mark.parametrize(
    "changes",
    [
        {"offsets": np.array([print] * 11)},
        {"labels": np.array([{}] * 11)},
        {"offsets": np.arange(11.0)},
        {"offsets": np.arange(11) * 4 + 1},
        {"offsets": np.arange(11) * 4000},
        {"offsets": np.arange(11) * 4 - 4},
        {"offsets": np.arange(12) * 4},
        {"offsets": np.empty(0, np.int64)},
        {"labels": np.full(11, -1, np.int32)},
        {"labels": np.full(11, 1 << 24, np.int32)},
        {"labels": np.zeros((11, 1), np.int32)},
        {"head": {"first_key": 1.5}},
        {"head": {"first_key": {}}},
        {"text": "[" * 100_000},
        {"text": "null"},
        {"text": "{}"},
    ],
    ids=str,
)
def test_a_forged_cache_is_made_again(
    changes: dict[str, Any], rec: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = open_cached(rec)
    whole = cache_of(rec).read_bytes()
    changes = dict(changes)
    cache_of(rec).unlink()
    if "text" not in changes:
        text = whole[: whole.index(b"}" + bytes(3), 128) + 4].partition(b"\n")[2]
        metadata = json.loads(text.decode("utf-32-le") + "}")["metadata"]
        changes["head"] = {"metadata": metadata, **changes.get("head", {})}
    cache_of(rec).write_bytes(forged(table, **changes))
    assert open_cached(rec).labels.tolist() == CLASSES
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert cache_of(rec).read_bytes() == whole


@pytest.mark.parametrize("is_huge", [True, False])
def test_a_cache_that_claims_more_than_it_has_costs_no_memory(is_huge: bool, rec: Path) -> None:
    open_cached(rec)
    shape = b"(9" + (b"9" * 12 if is_huge else b"") + b",)"
    content = cache_of(rec).read_bytes()[:-4].replace(b"(11,)", shape)
    content += zlib.crc32(content).to_bytes(4, "little")
    cache_of(rec).unlink()
    cache_of(rec).write_bytes(content)
    assert open_cached(rec).labels.tolist() == CLASSES


def test_the_folder_of_another_user_is_not_used(
    rec: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    rec.with_suffix(".idx").unlink()
    rec.parent.chmod(0o555)
    try:
        assert is_mapped(open_images(RecordFile(rec), cache_from=0))
        planted = {path: path.read_bytes() for path in (tmp_path / "partialfc").iterdir()}
        assert len(planted) == 2  # the rebuilt index and the table
        uid = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
        assert not is_mapped(open_images(RecordFile(rec), cache_from=0))
        assert {path: path.read_bytes() for path in planted} == planted
    finally:
        rec.parent.chmod(0o755)


def test_the_cache_folder_is_used_if_the_data_folder_is_read_only(rec: Path) -> None:
    rec.parent.chmod(0o555)
    try:
        for _ in range(2):
            assert is_mapped(open_cached(rec))
            assert open_cached(rec).labels.tolist() == CLASSES
        assert not cache_of(rec).exists()
        (kept,) = (rec.parent.parent / "cache").iterdir()
        assert kept.name.endswith("-train.idx.cache")
        kept.unlink()
        kept.parent.chmod(0o555)
        assert not is_mapped(open_cached(rec))
        assert list(kept.parent.iterdir()) == []
    finally:
        rec.parent.chmod(0o755)
        kept.parent.chmod(0o755)


def test_a_missing_index_is_rebuilt_and_the_table_cached(rec: Path) -> None:
    expected = plain(open_cached(rec))
    rec.with_suffix(".idx").unlink()
    cache_of(rec).unlink()
    assert plain(open_cached(rec)) == expected
    assert is_mapped(open_cached(rec))
    assert rec.with_suffix(".idx").exists()


def _open_and_report(rec: Path, results: "SimpleQueue[list[int]]") -> None:
    results.put(open_cached(rec).labels.tolist())


def test_processes_that_write_the_cache_at_once_leave_one_whole_file(rec: Path) -> None:
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
