import importlib.util
import json
import logging
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from recognition.distributed import World
from recognition.telemetry import Telemetry
from recognition.telemetry import logger as logger_module
from recognition.telemetry import telemetry as telemetry_module
from recognition.telemetry.logger import Histogram, InBackground, Logger, RunInfo
from recognition.telemetry.telemetry import dotted


class Broken(Logger):
    """Fails in whatever it is asked to do."""

    def __init__(self) -> None:
        super().__init__("broken")

    def start(self, run: RunInfo) -> None:
        raise RuntimeError("no network at https://me:hush@host/x")


class Slow(Logger):
    """Waits in `scalars` for an event."""

    def __init__(self) -> None:
        super().__init__("slow")
        self.goes_on = threading.Event()
        self.seen: list[str] = []

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self.goes_on.wait(60)
        self.seen.append(f"scalars {step}")

    def finish(self, figures: Mapping[str, float], *, failed: bool) -> None:
        self.seen.append(f"finish {figures} {failed}")


def test_a_run_goes_on_without_a_logger_that_fails(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(telemetry_module._EXTRAS, "wandb", Broken)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with Telemetry(
        tmp_path, world=World(), total_steps=2, loggers=["wandb", "tensorboard"]
    ) as telemetry:
        telemetry.record("train", 1, {"loss": 1.0})
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["loss"] == 1.0
    assert list((tmp_path / "tensorboard").iterdir())
    warned = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warned) == 2  # the error, and how much was lost at the end
    assert "broken: no network at https://***@host/x" in warned[0]
    assert "hush" not in caplog.text
    assert "2 records lost" in warned[1]  # the start and one record


def test_a_logger_that_waits_holds_up_nothing_and_what_is_too_much_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logger_module, "WAITING", 3)
    slow = Slow()
    background = InBackground(slow)
    background.scalars(1, {})
    while background._calls.qsize():  # until its thread has taken it, and waits
        time.sleep(0.001)
    for step in (2, 3, 4):
        background.scalars(step, {})
    with pytest.raises(TimeoutError):
        background.scalars(5, {})
    slow.goes_on.set()
    while background._calls.qsize():
        time.sleep(0.001)
    background.finish({"loss": 1.0}, failed=True)
    assert slow.seen == [f"scalars {n}" for n in (1, 2, 3, 4)] + ["finish {'loss': 1.0} True"]


def test_a_run_ends_though_a_logger_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logger_module, "FINISHED_WITHIN", 0.05)
    slow = Slow()
    background = InBackground(slow)
    background.scalars(1, {})
    with pytest.raises(TimeoutError):
        background.finish({}, failed=False)
    slow.goes_on.set()


def test_a_logger_that_is_not_installed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"mlflow.*pip install -e '\.\[mlflow\]'"):
        Telemetry(tmp_path, world=World(), total_steps=1, loggers=["tensorboard", "mlflow"])
    assert list(tmp_path.iterdir()) == []


def test_without_a_logger_the_record_is_complete(tmp_path: Path) -> None:
    with Telemetry(tmp_path, world=World(), total_steps=1, loggers=[]) as telemetry:
        samples = {"cosine": np.array([0.0, 0.5, 1.0, -np.inf, np.nan]), "none": np.array([])}
        telemetry.train(1, {"loss": 1.0}, "a line", samples)
    assert [item.name for item in tmp_path.iterdir()] == ["metrics.jsonl"]
    record = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert record["histograms"].keys() == {"cosine"}
    found = record["histograms"]["cosine"]
    assert found["range"] == [0.0, 1.0]
    assert (found["counts"][0], found["counts"][15], found["counts"][-1]) == (1, 1, 1)
    assert sum(found["counts"]) == 3


def test_a_histogram_counts_every_finite_number_once() -> None:
    numbers = np.random.default_rng(0).normal(size=1000)
    found = Histogram.of(numbers)
    assert found is not None
    assert sum(found.counts) == 1000
    assert len(found.edges) == len(found.counts) + 1
    assert found.total == pytest.approx(numbers.sum())
    assert found.squares == pytest.approx((numbers**2).sum())
    alike = Histogram.of(np.full(5, 2.0, np.float32))
    assert alike is not None
    assert sum(alike.counts) == 5


def test_settings_have_dotted_names() -> None:
    values = {"seed": 1, "head": {"loss": {"m": 0.5}, "rate": None}, "sets": ["lfw"], "on": True}
    assert dotted(values) == {
        "seed": 1, "head.loss.m": 0.5, "head.rate": "null", "sets": '["lfw"]', "on": True,
    }  # fmt: skip
