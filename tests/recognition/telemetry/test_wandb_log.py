import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recognition.distributed import World
from recognition.telemetry import Telemetry
from tests.recognition.telemetry.fakes import FakeResult

pytest.importorskip("wandb")

BLOCK = 32768  # bytes; no header crosses the end of one
FULL, LAST = 1, 4  # kinds of parts that end a record


def records(file: Path) -> Iterator[Any]:
    """Yield what an offline run has written, from LevelDB's log format."""
    from wandb.proto import wandb_internal_pb2

    content, position, record = file.read_bytes(), 7, b""
    while position < len(content):
        if BLOCK - position % BLOCK < 7:
            position += BLOCK - position % BLOCK
        _, length, kind = struct.unpack("<IHB", content[position : position + 7])
        record += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (FULL, LAST):
            yield getattr(wandb_internal_pb2, "Record").FromString(record)  # noqa: B009 (untyped)
            record = b""


def write_run(folder: Path, first_step: int) -> None:
    telemetry = Telemetry(
        folder, world=World(), total_steps=2, loggers=["wandb"], settings={"head": {"scale": 64.0}}
    )
    telemetry.first_step = first_step
    with telemetry:
        telemetry.text("config", "seed: 3\n")
        telemetry.images("data/first_batch", torch.zeros(2, 3, 4, 4), first_step)
        samples = {"cosine_positive": np.linspace(0, 1, 20)}
        telemetry.train(first_step + 1, {"loss": 2.0}, "a line", samples)
        telemetry.verification(first_step + 1, [FakeResult()])


@pytest.mark.slow
def test_an_offline_run_holds_what_was_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    for first_step in (0, 1):  # the second goes on with the first
        write_run(tmp_path, first_step)
    files = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert len({file.stem for file in files}) == 1
    assert [record.levelname for record in caplog.records if "lost" in record.message] == []

    found: dict[str, list[Any]] = {}
    settings: dict[str, Any] = {}
    for record in records(files[0]):
        if record.WhichOneof("record_type") == "history":
            for item in record.history.item:
                name = item.key or "/".join(item.nested_key)
                found.setdefault(name, []).append(json.loads(item.value_json))
        for item in record.run.config.update:
            settings[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
    assert settings["head.scale"] == 64.0
    assert found["train/loss"] == [2.0]
    assert found["verification/lfw/accuracy"] == [0.9375]
    assert set(found["step"]) == {0, 1}
    assert sum(found["samples/cosine_positive/values"][0]) == 20
    assert found["verification_pairs/lfw/roc/format"] == ["png"]
    files = list(tmp_path.glob("wandb/offline-run-*/files/config.txt"))
    assert files[0].read_text() == "seed: 3\n"
