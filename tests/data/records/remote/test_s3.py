"""Remote files on an S3 server: moto's, a process of its own on loopback."""

import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
import numpy as np
import pytest
import simplejpeg
import torch
from s3fs import S3FileSystem

from data.datasets.dataset import open_dataset
from data.datasets.sources import open_record_file
from data.loading.loader import Loader
from data.records.index import open_index
from data.records.reader import RecordFile
from data.records.remote import ranges as remote
from data.records.remote.ranges import RemoteError, RemoteMissing
from data.records.remote.reader import RemoteRecordFile
from data.records.writer import write_face_records
from tests.data.records.remote.awake import within

RECORDS = Path(__file__).parents[3] / "fixtures" / "recordio"
DIALECTS = sorted(path.parent.name for path in RECORDS.glob("*/train.rec"))
READY_SECONDS = 120
# Ends when its standard input does, so that a killed test process leaves no server behind.
SERVE = """
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
from moto.server import main
main(["-H", "127.0.0.1", "-p", sys.argv[1]])
"""


class Server:
    """An S3 server process with the bucket `faces`."""

    def __init__(self, folder: Path, **environment: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.log = folder / "server.log"
        self._read = 0
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", SERVE, str(port)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=os.environ | environment,
            )
        deadline = time.monotonic() + READY_SECONDS
        while not self._answers():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, f"no answer from {self.url}: {self.log.read_text()}"
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/moto-api/data.json", timeout=5):
                return True
        except OSError:
            return False

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()

    def requests(self) -> list[str]:
        """Return method and path of the requests since the last call, as the server logged them."""
        content = self.log.read_text()
        new, self._read = content[self._read :], len(content)
        return re.findall(r"(?:GET|HEAD) /faces/\S+", new)


@contextmanager
def serving(folder: Path, **environment: str) -> Iterator[Server]:
    """Run a server that the environment names as the endpoint, with credentials for it."""
    server = Server(folder, **environment)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", server.url)
            patch.setenv("AWS_ACCESS_KEY_ID", "tester")
            patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
            patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
            patch.delenv("AWS_PROFILE", raising=False)
            patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
            S3FileSystem.clear_instance_cache()  # clients of an earlier endpoint
            yield server
    finally:
        server.stop()
        S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("s3")) as server:
        store = S3FileSystem()
        store.mkdir("faces")
        for dialect in DIALECTS:
            store.put(str(RECORDS / dialect), f"faces/{dialect}", recursive=True)
        yield server


def faces(folder: Path, identities: int = 20, each: int = 6) -> Path:
    """Write small JPEGs of noise in the layout of the public datasets."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 255, (identities * each, 16, 16, 3), dtype=np.uint8)
    images = ((row // each, simplejpeg.encode_jpeg(image)) for row, image in enumerate(pictures))
    write_face_records(folder, images, image_size=16)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_reads_as_it_does_from_a_disk(dialect: str, server: Server) -> None:
    local = RecordFile(RECORDS / dialect / "train.rec")
    file = open_record_file(f"s3://faces/{dialect}/train.rec")
    index = open_index(file)
    np.testing.assert_array_equal(index.offsets, open_index(local).offsets)
    in_order = np.sort(index.offsets)
    for offset in [*in_order.tolist(), *index.offsets[::-2].tolist()]:
        assert bytes(file.read(offset)) == bytes(local.read(offset))


def test_a_dataset_is_opened_by_the_url_of_its_folder(server: Server) -> None:
    local = open_dataset(RECORDS / "insightface_header")
    for url in ("s3://faces/insightface_header", "s3://faces/insightface_header/train.rec"):
        dataset = open_dataset(url)
        assert dataset.labels.tolist() == local.labels.tolist()
        assert [bytes(dataset.encoded(i)) for i in range(24)] == [
            bytes(local.encoded(i)) for i in range(24)
        ]
    place = "s3://faces/insightface_header/train.rec, key 3, offset 3728"
    assert dataset.describe(2) == place


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
def test_batches_equal_those_of_a_local_file(workers: int, server: Server, tmp_path: Path) -> None:
    local = faces(tmp_path / "local")
    S3FileSystem().put(str(local), f"faces/batches{workers}", recursive=True)
    near, far = (
        Loader(dataset, image_size=16, global_batch_size=30, workers=count)
        for dataset, count in [
            (open_dataset(local), 1),
            (open_dataset(f"s3://faces/batches{workers}"), workers),
        ]
    )
    for expected, batch in zip(near.batches(0, 6), far.batches(0, 6), strict=True):
        assert torch.equal(batch.indices, expected.indices)
        assert torch.equal(batch.labels, expected.labels)
        assert torch.equal(batch.images, expected.images)


def test_a_batch_takes_few_requests(server: Server, tmp_path: Path) -> None:
    S3FileSystem().put(str(faces(tmp_path / "local")), "faces/few", recursive=True)
    server.requests()
    dataset = open_dataset("s3://faces/few")
    opening = server.requests()
    assert opening.count("HEAD /faces/few/train.rec") == 1
    assert opening.count("HEAD /faces/few/train.idx") == 1
    assert opening.count("GET /faces/few/train.idx") == 1
    assert opening.count("GET /faces/few/train.rec") <= 6
    loader = Loader(dataset, image_size=16, global_batch_size=60)
    list(loader.batches(0, 1))
    assert server.requests() == ["GET /faces/few/train.rec"]  # one for all the near records
    assert open_dataset("s3://faces/few").labels.tolist() == dataset.labels.tolist()
    again = server.requests()
    assert "GET /faces/few/train.idx" not in again
    assert len(again) < len(opening)


def test_an_object_that_changes_is_refused(server: Server, tmp_path: Path) -> None:
    store = S3FileSystem()
    store.put(str(faces(tmp_path / "old")), "faces/changing", recursive=True)
    dataset = open_dataset("s3://faces/changing")
    connections = {"max_pool_connections": remote.PARALLEL_REQUESTS}
    listing, _ = fsspec.url_to_fs("s3://faces/changing", config_kwargs=connections)
    listing.ls("faces/changing")  # an old listing, from which our client could answer
    store.put(str(faces(tmp_path / "new", each=2) / "train.rec"), "faces/changing/train.rec")
    with pytest.raises(RemoteError, match=r"^s3://faces/changing/train\.rec .*\(ETag"):
        dataset.encoded(100)


@pytest.mark.parametrize("url", ["s3://faces/nowhere", "s3://no-bucket/train.rec"])
def test_missing_objects_and_buckets_are_named(url: str, server: Server) -> None:
    with pytest.raises(RemoteMissing, match=rf"^{url}"):
        open_dataset(url)


@pytest.mark.slow
def test_refused_access_is_reported(tmp_path: Path) -> None:
    refused = pytest.raises(RemoteError, match=r"^s3://faces/x/train\.rec: .*AWS_PROFILE")
    with serving(tmp_path, INITIAL_NO_AUTH_ACTION_COUNT="0"), refused:
        open_dataset("s3://faces/x")


@pytest.mark.slow
def test_a_server_that_dies_is_reported_in_bounded_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "WAITS", (0.0, 0.1, 0.1, 0.1))
    with serving(tmp_path) as server:
        store = S3FileSystem()
        store.mkdir("faces")
        store.put(str(faces(tmp_path / "local")), "faces/dying", recursive=True)
        file = RemoteRecordFile("s3://faces/dying/train.rec", patience=0.3)
        offsets = open_index(file).offsets
        assert file.read(int(offsets[50]))
        server.stop()
        file.prefetch(offsets[60:80])
        values = r"^s3://faces/dying/train\.rec, bytes \d+ to \d+: .* 4 .*\d+ s"
        with within(20), pytest.raises(RemoteError, match=values):
            file.read(int(offsets[60]))
