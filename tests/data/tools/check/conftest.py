from pathlib import Path

import pytest

import data.tools.check.run
from data.records.writer import write_face_records
from tests.conftest import picture


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """Return a `train.rec` of 4 identities with 3 images each: keys 1 … 12, then 5 more."""
    images = ((identity, picture(identity, number)) for identity in range(4) for number in range(3))
    write_face_records(tmp_path, images, image_size=32)
    return tmp_path / "train.rec"


@pytest.fixture(params=[64, 1000 * 4, 1 << 23], ids=["64 bytes", "4 kB", "whole"])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Read files in chunks of so many bytes: the findings must not depend on it."""
    monkeypatch.setattr(data.tools.check.run, "CHUNK", request.param)
    return int(request.param)
