"""Remote files whose store fails, or whose content changes."""

import pickle
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


def test_failures_that_pass_are_got_over(local: RecordFile, store: Store) -> None:
    file = opened(store, local)
    store.faults = [short, refused]
    assert bytes(file.read(0)) == bytes(local.read(0))
    assert len(store.asked()) == 3


@pytest.mark.parametrize(
    ("fault", "reason"),
    [(short, r"ConnectionError: got \d+ bytes of \d+"), (refused, "connection reset")],
)
def test_a_failure_that_stays_is_told_with_its_place(
    local: RecordFile, store: Store, fault: Callable[[bytes], bytes], reason: str
) -> None:
    file = opened(store, local)
    offsets = local.scan().tolist()
    store.faults = [fault] * 4
    message = (
        rf"^memory://faces/train\.rec, bytes {offsets[9]} to {offsets[10]}: no answer in 4 tries"
    )
    with (
        within(20),
        pytest.raises(RemoteError, match=message + rf".*{reason}\); check the network"),
    ):
        file.read(offsets[9])
    assert bytes(file.read(offsets[9])) == bytes(local.read(offsets[9]))


def test_a_failed_block_is_asked_for_again(local: RecordFile, store: Store) -> None:
    file = opened(store, local)
    offsets = local.scan()
    for prefetch in (partial(file.prefetch, whole_blocks=True), file.prefetch):
        store.faults = [refused] * 4
        prefetch(offsets[:1])
        with pytest.raises(RemoteError, match="connection reset"):
            file.read(0)
        assert bytes(file.read(0)) == bytes(local.read(0))
        assert file._cache.held_bytes <= BLOCK


def test_a_request_that_hangs_is_made_again(local: RecordFile, store: Store) -> None:
    file = opened(store, local, patience=0.2)
    release = threading.Event()

    def hang(data: bytes) -> bytes:
        release.wait(60)
        return data

    store.faults = [hang, hang]
    assert bytes(file.read(0)) == bytes(local.read(0))
    store.faults = [hang] * 4
    with within(20), pytest.raises(RemoteError, match=r"no answer in 4 tries .*\(TimeoutError\)"):
        file.read(0)
    release.set()


def test_a_network_failure_is_no_bad_record() -> None:
    assert not issubclass(RemoteError, RecordError)
    error = RemoteError("a message")
    assert str(pickle.loads(pickle.dumps(error))) == "a message"


def test_an_object_that_changes_is_refused(
    local: RecordFile, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = Path(local.path).read_bytes()
    offsets = local.scan().tolist()
    message = r"^memory://faces/train\.rec was changed while in use \(.*size was {} and is {}"

    shorter = opened(store, local)
    store.files.pipe_file("/faces/train.rec", content[: offsets[200]])
    with pytest.raises(RemoteError, match=message.format(len(content), offsets[200])):
        shorter.read(offsets[300])

    other = opened(store, local)
    store.files.pipe_file("/faces/train.rec", bytes(len(content)))
    with pytest.raises(RemoteError, match=r"created was .* and is .*: start again to read it"):
        other.read(offsets[300])

    # What looks well is noticed when it is time to ask again, or in another process.
    monkeypatch.setattr(remote, "RECHECK_SECONDS", 0.0)
    file = opened(store, local)
    copy = pickle.loads(pickle.dumps(file))
    store.files.pipe_file("/faces/train.rec", content)
    for same in (file, copy):
        with pytest.raises(RemoteError, match="was changed while in use"):
            same.read(offsets[300])

    gone = opened(store, local)
    store.files.rm("/faces/train.rec")
    with pytest.raises(RemoteMissing, match=r"train\.rec.* does not exist"):
        gone.read(offsets[300])
