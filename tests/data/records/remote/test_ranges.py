"""Remote objects whose store fails or whose content changes."""

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from data.records.format import RecordError
from data.records.reader import RecordFile
from data.records.remote import ranges as remote
from data.records.remote.ranges import RemoteError, RemoteMissing
from tests.data.records.remote.awake import within
from tests.data.records.remote.store import BLOCK, Store, opened


def short(data: bytes) -> bytes:
    return data[: len(data) // 2]


def refused(data: bytes) -> bytes:
    raise ConnectionError("connection reset")


def test_temporary_failures_are_retried(local: RecordFile, store: Store) -> None:
    file = opened(store, local)
    store.faults = [short, refused]
    assert bytes(file.read(0)) == bytes(local.read(0))
    assert len(store.take_requests()) == 3


@pytest.mark.parametrize(
    ("fault", "reason"),
    [(short, r"ConnectionError: .*\d+ .*\d+"), (refused, "ConnectionError: connection reset")],
)
def test_a_lasting_failure_is_raised_with_its_url_and_bytes(
    local: RecordFile, store: Store, fault: Callable[[bytes], bytes], reason: str
) -> None:
    file = opened(store, local)
    offsets = local.scan().tolist()
    store.faults = [fault] * 4
    values = rf"^memory://faces/train\.rec, bytes {offsets[9]} to {offsets[10]}: .* 4 .*{reason}\)"
    with within(20), pytest.raises(RemoteError, match=values):
        file.read(offsets[9])
    assert bytes(file.read(offsets[9])) == bytes(local.read(offsets[9]))


def test_a_failed_block_is_requested_again(local: RecordFile, store: Store) -> None:
    file = opened(store, local)
    offsets = local.scan()
    for prefetch in (partial(file.prefetch, whole_blocks=True), file.prefetch):
        store.faults = [refused] * 4
        prefetch(offsets[:1])
        with pytest.raises(RemoteError, match="connection reset"):
            file.read(0)
        assert bytes(file.read(0)) == bytes(local.read(0))
        assert file._cache.held_bytes <= BLOCK


def test_a_request_that_hangs_is_repeated(local: RecordFile, store: Store) -> None:
    file = opened(store, local, patience=0.2)
    release = threading.Event()

    def hang(data: bytes) -> bytes:
        release.wait(60)
        return data

    store.faults = [hang, hang]
    assert bytes(file.read(0)) == bytes(local.read(0))
    store.faults = [hang] * 4
    with within(20), pytest.raises(RemoteError, match=r" 4 .*\(TimeoutError\)"):
        file.read(0)
    release.set()


def test_a_network_failure_is_not_a_bad_record() -> None:
    assert not issubclass(RemoteError, RecordError)


def test_an_object_that_changes_is_refused(
    local: RecordFile, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = Path(local.path).read_bytes()
    offsets = local.scan().tolist()
    values = r"^memory://faces/train\.rec .*\(.*size .* {} .* {}"

    shorter = opened(store, local)
    store.files.pipe_file("/faces/train.rec", content[: offsets[200]])
    with pytest.raises(RemoteError, match=values.format(len(content), offsets[200])):
        shorter.read(offsets[300])

    other = opened(store, local)
    store.files.pipe_file("/faces/train.rec", bytes(len(content)))
    with pytest.raises(RemoteError, match=r"^memory://faces/train\.rec .*\(created "):
        other.read(offsets[300])

    # If all requests succeed, the change is detected when it is time to ask again.
    monkeypatch.setattr(remote, "RECHECK_SECONDS", 0.0)
    file = opened(store, local)
    store.files.pipe_file("/faces/train.rec", content)
    with pytest.raises(RemoteError, match=r"^memory://faces/train\.rec .*\(created "):
        file.read(offsets[300])

    gone = opened(store, local)
    store.files.rm("/faces/train.rec")
    with pytest.raises(RemoteMissing, match=r"^memory://faces/train\.rec"):
        gone.read(offsets[300])
