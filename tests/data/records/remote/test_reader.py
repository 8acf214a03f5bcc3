"""Records of remote files, on fsspec's own file systems."""

import multiprocessing
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from operator import methodcaller
from pathlib import Path

import numpy as np
import pytest

from data.datasets.dataset import open_dataset
from data.datasets.sources import open_record_file
from data.records.format import RecordError
from data.records.index import open_index
from data.records.reader import RecordFile
from data.records.remote.range_cache import RangeCache
from data.records.remote.ranges import RemoteObject
from data.records.remote.reader import RemoteRecordFile
from tests.data.records.remote.store import BLOCK, Store, opened, sizes, write

RECORDS = Path(__file__).parents[3] / "fixtures" / "recordio"
DIALECTS = sorted(path.parent.name for path in RECORDS.glob("*/train.rec"))


@pytest.mark.slow
@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("block", [1500, 1 << 20])
@pytest.mark.parametrize("with_index", [True, False], ids=["indexed", "scanned"])
def test_every_dialect_reads_as_it_does_from_a_disk(
    dialect: str, block: int, with_index: bool, tmp_path: Path
) -> None:
    shutil.copy(RECORDS / dialect / "train.rec", tmp_path)
    if with_index:
        shutil.copy(RECORDS / dialect / "train.idx", tmp_path)
    local = RecordFile(tmp_path / "train.rec")
    for _ in range(2):  # the second time from what is kept on this machine
        file = RemoteRecordFile(
            f"file://{tmp_path}/train.rec", block_bytes=block, cache_bytes=max(2 * block, 5000)
        )
        index, expected = open_index(file), open_index(local)
        assert index.keys.tolist() == expected.keys.tolist()
        assert index.offsets.tolist() == expected.offsets.tolist()
        assert file.scan().tolist() == local.scan().tolist()
        ours, theirs = file.headers(index.offsets), local.headers(index.offsets)
        np.testing.assert_array_equal(ours.image_sizes, theirs.image_sizes)
        for column in ("flags", "labels", "ids"):
            mine, other = getattr(ours, column), getattr(theirs, column)
            np.testing.assert_array_equal(
                mine[theirs.image_sizes >= 0], other[theirs.image_sizes >= 0]
            )
        mixed = np.random.default_rng(0).permutation(index.offsets)
        for offset in np.sort(mixed).tolist():
            assert bytes(file.read(offset)) == bytes(local.read(offset))
        file.know_offsets(index.offsets)
        file.prefetch(mixed[: len(mixed) // 2])
        for offset in mixed.tolist():
            assert bytes(file.read(offset)) == bytes(local.read(offset))


def test_a_damaged_file_gives_the_messages_of_a_local_one(local: RecordFile, store: Store) -> None:
    whole = Path(local.path).read_bytes()
    offsets = local.scan()
    damaged = bytearray(whole)
    damaged[offsets[5]] ^= 1
    for content, offset in [
        (whole[: offsets[-1] + 4], offsets[-1]),
        (whole[: offsets[-1] + 12], offsets[-1]),
        (whole, offsets[3] + 4),
        (whole, 2),
        (whole, -4),
        (whole, 1 << 40),
        (bytes(damaged), offsets[5]),
    ]:
        Path(local.path).write_bytes(content)
        url = store.put(Path(local.path).parent) + "/train.rec"
        broken, file = RecordFile(Path(local.path)), RemoteRecordFile(url)
        actions: list[Callable[[RecordFile], object]] = [
            methodcaller("read", int(offset), 9),
            methodcaller("headers", np.array([offset]), range(9, 10)),
        ]
        if content is not whole:
            actions.append(methodcaller("scan"))
        for action in actions:
            with pytest.raises(RecordError) as expected:
                action(broken)
            with pytest.raises(RecordError) as found:
                action(file)
            assert str(found.value) == str(expected.value).replace(str(local.path), url)


def test_a_batch_in_random_order_is_one_request_per_record(local: RecordFile, store: Store) -> None:
    file = opened(store, local)
    offsets = local.scan()
    batch = np.random.default_rng(2).permutation(offsets[::30])
    file.prefetch(batch)
    expected = [bytes(local.read(offset)) for offset in batch.tolist()]
    assert [bytes(file.read(offset)) for offset in batch.tolist()] == expected
    asked = store.take_requests()
    assert asked == list(zip(offsets[::30].tolist(), offsets[1::30].tolist(), strict=True))


def test_the_requests_of_a_batch_run_at_once(local: RecordFile, store: Store) -> None:
    file = opened(store, local)
    offsets = local.scan()[::100]
    together = threading.Barrier(4)

    def wait_for_the_others(data: bytes) -> bytes:
        together.wait(60)
        return data

    store.faults = [wait_for_the_others] * 4
    file.prefetch(offsets)
    assert [bytes(file.read(at)) for at in offsets.tolist()] == [
        bytes(local.read(at)) for at in offsets.tolist()
    ]
    assert len(store.take_requests()) == 4


def test_near_records_share_a_request(local: RecordFile, store: Store) -> None:
    file = opened(store, local)
    offsets = local.scan()
    file.prefetch(offsets[[100, 103, 101, 102, 200]])
    file.prefetch(offsets[[101, 102]])  # already on their way
    for row in (200, 102, 100, 101, 103):
        assert bytes(file.read(int(offsets[row]))) == bytes(local.read(int(offsets[row])))
    assert store.take_requests() == [(offsets[100], offsets[104]), (offsets[200], offsets[201])]
    assert file._cache.held_bytes == 0  # a run is dropped when it has been read
    file.read(int(offsets[102]))
    assert store.take_requests() == [(offsets[102], offsets[103])]


def test_large_records_are_read_whole_and_unknown_sizes_cost_little(
    tmp_path: Path, store: Store
) -> None:
    (tmp_path / "large").mkdir()
    local = write(tmp_path / "large", [100_000, 10, *[10_000] * 30])
    file = opened(store, local)
    offsets = local.scan()
    file.know_offsets(offsets[[2, -1]])  # as of an index of a part of the file
    assert bytes(file.read(0)) == bytes(local.read(0))
    store.take_requests()
    assert bytes(file.read(int(offsets[2]))) == bytes(local.read(int(offsets[2])))
    assert sizes(store.take_requests()) == [64 << 10]


def test_an_image_is_read_by_a_request_for_its_record(local: RecordFile, store: Store) -> None:
    dataset = open_dataset(store.put(Path(local.path).parent))
    store.take_requests()
    dataset.encoded(5)
    offsets = local.scan()
    assert store.take_requests() == [(offsets[5], offsets[6])]


def test_records_in_held_blocks_are_not_requested(local: RecordFile, store: Store) -> None:
    file = opened(store, local)
    offsets = local.scan()
    near = offsets[offsets < 2 * BLOCK - 1000]
    file.prefetch(near, whole_blocks=True)
    file.prefetch(near)
    assert [len(file.read(at)) for at in near.tolist()] == [len(local.read(at)) for at in near]
    assert {span for span in store.take_requests() if span[0] < BLOCK} == {(0, BLOCK)}


def test_reading_in_file_order_requests_whole_blocks_once(local: RecordFile, store: Store) -> None:
    file = opened(store, local)
    for offset in local.scan().tolist():
        assert bytes(file.read(offset)) == bytes(local.read(offset))
    asked = store.take_requests()
    blocks = [(start, min(start + BLOCK, file.size)) for start in range(0, file.size, BLOCK)]
    assert set(blocks) <= set(asked)
    assert len(asked) == len(blocks) + 4  # single records, until the order showed


def test_reading_in_file_order_requests_the_next_blocks(local: RecordFile, store: Store) -> None:
    file = opened(store, local)
    for offset in local.scan()[:6].tolist():
        file.read(offset)
    assert local.scan()[6] < BLOCK + 1000
    assert file._cache.holds(0, 4 * BLOCK)
    assert not file._cache.holds(7 * BLOCK, 8 * BLOCK)


def test_blocks_in_a_shuffled_order_are_requested_once(local: RecordFile, store: Store) -> None:
    file = opened(store, local)
    offsets = local.scan()
    near = offsets[(offsets >= 5 * BLOCK) & (offsets < 9 * BLOCK - 1000)]
    order = np.random.default_rng(3).permutation(near)
    for start in range(0, len(order), 5):
        batch = order[start : start + 5]
        file.prefetch(batch, whole_blocks=True)
        for offset in batch.tolist():
            assert bytes(file.read(offset)) == bytes(local.read(offset))
    assert store.take_requests() == [
        (start, start + BLOCK) for start in range(5 * BLOCK, 9 * BLOCK, BLOCK)
    ]


@pytest.mark.parametrize("whole_blocks", [True, False])
def test_the_cache_keeps_its_limit(local: RecordFile, store: Store, whole_blocks: bool) -> None:
    file = opened(store, local, cache_bytes=3 * BLOCK)
    offsets = np.random.default_rng(4).permutation(np.tile(local.scan(), 2))
    most = 0
    for start in range(0, len(offsets), 40):
        batch = offsets[start : start + 40]  # of 40 blocks, or 20 kB
        file.prefetch(batch, whole_blocks=whole_blocks)
        for offset in batch.tolist():
            most = max(most, file._cache.held_bytes)
            assert bytes(file.read(offset)) == bytes(local.read(offset))
            assert file._cache.held_bytes == sum(sizes(list(file._cache._ranges)))
    assert 2 * BLOCK < most <= 3 * BLOCK


def test_records_that_are_never_read_are_dropped(local: RecordFile, store: Store) -> None:
    file = opened(store, local, cache_bytes=2 * BLOCK)
    offsets = local.scan()
    for start in range(0, 300, 10):
        file.prefetch(offsets[start : start + 10])  # as by a loader that was closed
    store.take_requests()
    file.prefetch(offsets[300:310])
    for offset in offsets[300:310].tolist():
        file.read(offset)
    assert max(sizes(store.take_requests())) > 2000  # together, not one by one


def test_records_that_were_dropped_unread_are_fetched_again(
    local: RecordFile, store: Store
) -> None:
    file = opened(store, local, cache_bytes=2 * BLOCK)
    offsets = local.scan()
    for start in range(0, 40, 4):
        file.prefetch(offsets[start : start + 4])
    assert bytes(file.read(int(offsets[1]))) == bytes(local.read(int(offsets[1])))
    assert (offsets[1], offsets[2]) in store.take_requests()


def test_threads_share_what_is_fetched(local: RecordFile, store: Store) -> None:
    file = opened(store, local, cache_bytes=3 * BLOCK)
    offsets = np.random.default_rng(5).permutation(np.tile(local.scan(), 4)).tolist()

    def agree(offset: int) -> bool:
        if offset % 3 == 0:
            file.prefetch(np.array([offset]), whole_blocks=offset % 2 == 0)
        return bytes(file.read(offset)) == bytes(local.read(offset))

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(agree, offsets))
    assert file._cache.held_bytes <= 3 * BLOCK


def test_a_record_belongs_to_one_run_only(local: RecordFile, store: Store) -> None:
    cache = opened(store, local)._cache
    cache.fetch_runs([((0, 100), [0])])
    cache.fetch_runs([((0, 200), [0])])  # from another thread that announced the same
    assert cache.held_bytes == 100
    assert cache.take(0, 8) is not None
    assert cache.held_bytes == 0


def test_a_cache_of_less_than_two_blocks_is_refused(local: RecordFile, store: Store) -> None:
    url = store.put(Path(local.path).parent) + "/train.rec"
    with pytest.raises(ValueError, match="block_bytes is 8 and cache_bytes 15"):
        RangeCache(RemoteObject(url), block_bytes=8, cache_bytes=15)


def _send_first_payload(file: RecordFile, connection: Connection) -> None:
    connection.send(bytes(file.read(0)))


def test_a_forked_process_reads_the_file(local: RecordFile) -> None:
    file = open_record_file(f"file://{local.path}")
    file.read(0)
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    worker = context.Process(target=_send_first_payload, args=(file, there))
    worker.start()
    assert here.poll(60)
    assert here.recv() == bytes(local.read(0))
    worker.join(10)
    assert worker.exitcode == 0


def test_a_location_names_the_url(local: RecordFile, store: Store) -> None:
    assert opened(store, local).where(0, 5) == "memory://faces/train.rec, key 5, offset 0"
