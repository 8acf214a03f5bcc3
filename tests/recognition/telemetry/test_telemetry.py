import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from recognition.distributed import World
from recognition.telemetry import Telemetry
from tests.conftest import file_limit


def telemetry(output: Path, first_step: int = 0, world: World | None = None) -> Telemetry:
    made = Telemetry(output, world=world or World(), total_steps=9)
    made.first_step = first_step
    return made


def test_the_file_and_the_dashboard_hold_the_same_numbers(tmp_path: Path) -> None:
    with telemetry(tmp_path) as writer:
        writer.record("train", 1, {"loss": 2.5})
        writer.record(
            "verification", 1, {"set": "lfw", "tar_at_far": {"1e-3": 0.5, "1e-4": None}}, tag="lfw"
        )
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[0] == {"event": "train", "step": 1, "loss": 2.5}
    assert lines[1]["tar_at_far"] == {"1e-3": 0.5, "1e-4": None}
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert board.Scalars("train/loss")[0].value == 2.5
    assert board.Scalars("verification/lfw/tar_at_far/1e-3")[0].value == 0.5
    assert "verification/lfw/tar_at_far/1e-4" not in board.Tags()["scalars"]


class Record:
    """A result of a verification set with one figure."""

    scores = faces = None

    def __init__(self, accuracy: float) -> None:
        self.accuracy = accuracy

    def to_json(self) -> dict[str, Any]:
        return {"set": "lfw", "accuracy": self.accuracy}

    def summary(self) -> str:
        return f"lfw {self.accuracy}"


def test_averaged_weights_have_figures_of_their_own(tmp_path: Path) -> None:
    with telemetry(tmp_path) as writer:
        writer.verification(3, [Record(0.5)])
        writer.verification(3, [Record(0.75)], averaged=True)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [
        {"event": "verification", "step": 3, "set": "lfw", "accuracy": 0.5},
        {"event": "verification_ema", "step": 3, "set": "lfw", "accuracy": 0.75},
    ]
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert board.Scalars("verification/lfw/accuracy")[0].value == 0.5
    assert board.Scalars("verification_ema/lfw/accuracy")[0].value == 0.75


def test_a_resumed_run_has_one_value_a_step(tmp_path: Path) -> None:
    with telemetry(tmp_path) as writer:
        for step in (1, 2, 3):
            writer.record("train", step, {"loss": float(step)})
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write('{"event": "train", "st')  # the crash came here
    with telemetry(tmp_path, first_step=2) as writer:
        writer.record("train", 3, {"loss": 33.0})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 1.0), (2, 2.0), (3, 33.0)]


def test_only_rank_0_writes(tmp_path: Path) -> None:
    with telemetry(tmp_path, world=World(rank=1, size=2)) as writer:
        writer.record("train", 1, {"loss": 1.0})
        writer.images("x", torch.zeros(1, 3, 4, 4), 0)
        writer.advance()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_costs_records_and_not_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    metrics, loss = tmp_path / "metrics.jsonl", {"loss": 0.5}
    with telemetry(tmp_path) as writer:
        writer.record("train", 1, loss)
        with file_limit(metrics.stat().st_size + 10):  # less than a record: it would be cut
            for step in (2, 3, 4):
                writer.record("train", step, loss)
                writer.images("images", torch.zeros(1, 3, 4, 4), step)
        assert len(caplog.messages) == 2  # once for each file, in a minute
        writer.record("train", 5, loss)
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert steps == [1, 5]
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [event.step for event in board.Scalars("train/loss")] == [1, 5]
    assert str(metrics) in caplog.messages[0]
    assert "iB free" in caplog.messages[0]
    assert f"{metrics}: 3 records lost" in caplog.messages[2]
    assert f"{tmp_path / 'tensorboard'}/" in caplog.messages[3]


def test_a_history_that_cannot_be_written_stays_as_it_was(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text('{"event": "train", "step": 1}\n{"event": "train", "step": 2}\n')
    before = metrics.read_text()
    with (
        pytest.raises(ValueError, match=str(metrics)),
        file_limit(5),
        telemetry(tmp_path, first_step=1),
    ):
        pass
    assert metrics.read_text() == before


def test_a_run_that_starts_anew_has_no_history(tmp_path: Path) -> None:
    for loss in (1.0, 2.0):  # the first ended before its first checkpoint
        with telemetry(tmp_path) as writer:
            writer.record("verification", 0, {"accuracy": loss})
            writer.record("train", 1, {"loss": loss})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line.get("accuracy", line.get("loss")) for line in lines] == [2.0, 2.0]


def test_bars_appear_on_terminals_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with telemetry(tmp_path) as writer:
        writer.advance()
    assert capsys.readouterr().err == ""
