"""A remote store in memory, and a record file in it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from data.records.format import pack_record
from data.records.index import open_index
from data.records.reader import RecordFile
from data.records.remote.reader import RemoteRecordFile
from data.records.writer import RecordWriter

BLOCK = 4096


class Store:
    """A store in memory that records the ranges requested from it and fails on demand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.requests: list[tuple[int, int]] = []
        self.faults: list[Callable[[bytes], bytes]] = []  # applied to the next answers
        self.files = MemoryFileSystem()
        cat_file = MemoryFileSystem.cat_file

        def counted(fs: Any, path: str, start: int, end: int) -> bytes:
            if path.endswith(".rec"):
                self.requests.append((start, end))
            data: bytes = cat_file(fs, path, start=start, end=end)
            return self.faults.pop(0)(data) if self.faults else data

        monkeypatch.setattr(MemoryFileSystem, "cat_file", counted)

    def put(self, folder: Path) -> str:
        for path in folder.iterdir():
            self.files.pipe_file(f"/faces/{path.name}", path.read_bytes())
        return "memory://faces"

    def take_requests(self) -> list[tuple[int, int]]:
        """Return the requests since the last call, sorted by their start."""
        requests, self.requests = sorted(self.requests), []
        return requests


def write(folder: Path, sizes: list[int]) -> RecordFile:
    """Write records with images of the given sizes."""
    rng = np.random.default_rng(0)
    with RecordWriter(folder / "train.rec") as writer:
        for key, size in enumerate(sizes):
            writer.write(key, pack_record(key % 7, key, rng.bytes(size)))
    return RecordFile(folder / "train.rec")


def opened(store: Store, local: RecordFile, **options: Any) -> RemoteRecordFile:
    """Return the same file in the store, with its offsets known; forget the requests so far."""
    url = store.put(Path(local.path).parent)
    file = RemoteRecordFile(
        f"{url}/train.rec",
        block_bytes=BLOCK,
        **{"cache_bytes": 8 * BLOCK} | options,
    )
    file.know_offsets(open_index(local).offsets)
    store.take_requests()
    return file


def sizes(spans: list[tuple[int, int]]) -> list[int]:
    return [stop - start for start, stop in spans]
