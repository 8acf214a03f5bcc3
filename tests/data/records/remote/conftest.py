"""A store in memory, and a cache folder for each test."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from data.records.reader import RecordFile
from data.records.remote import ranges as remote
from tests.data.records.remote.store import Store, write


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    store = Store(monkeypatch)
    monkeypatch.setattr(remote, "WAITS", (0.0, 0.01, 0.01, 0.01))
    yield store
    store.files.store.clear()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "partialfc"


@pytest.fixture
def local(tmp_path: Path) -> RecordFile:
    """Return a file of 400 records of about 500 bytes: 50 blocks."""
    (tmp_path / "local").mkdir()
    return write(tmp_path / "local", np.random.default_rng(1).integers(1, 950, 400).tolist())
