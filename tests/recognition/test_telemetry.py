import json
import logging
from pathlib import Path

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from recognition.distributed import World
from recognition.telemetry import Meter, Telemetry, configure_logging, duration


def telemetry(output: Path, first_step: int = 0, world: World | None = None) -> Telemetry:
    return Telemetry(
        output, world=world or World(), first_step=first_step, total_steps=9, progress=False
    )


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


def test_the_log_has_no_secret_whatever_logs_it(tmp_path: Path) -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    root.handlers = []  # those of pytest, which `force` would close
    try:
        configure_logging(World(), tmp_path / "log.txt")
        try:
            raise OSError("https://me:hush@host/x?sig=hush")
        except OSError:
            logging.getLogger("library").exception("no %s", "https://host/x?sig=hush")
        text = (tmp_path / "log.txt").read_text()
    finally:
        for handler in root.handlers:
            handler.close()
        root.handlers, root.level = before, level
    assert "hush" not in text
    assert "OSError: https://***@host/x?***" in text
    assert "no https://host/x?***" in text


def test_the_meter_gives_means_and_shares() -> None:
    meter = Meter()
    for loss in (1.0, 3.0):
        meter.add(loss=torch.tensor(loss), cosine=0.5)
        meter.steps += 1
        meter.images += 8
    meter.last["norm"] = torch.tensor(9.0)
    assert meter.values() == {"loss": 2.0, "cosine": 0.5, "norm": 9.0}
    meter.waited = meter.elapsed() / 2
    assert 0.3 < meter.rates()["data_wait"] <= 0.5
    assert meter.rates()["images_per_second"] > 0
    assert duration(3723) == "1:02:03"
