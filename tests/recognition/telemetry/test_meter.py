import time

import pytest
import torch

from recognition.telemetry import Meter, duration


def test_the_meter_gives_means_and_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    meter = Meter()
    for loss in (1.0, 3.0):
        meter.add({"loss": torch.tensor(loss), "cosine": 0.5})
        meter.steps += 1
        meter.images += 8
    meter.last["norm"] = torch.tensor(9.0)
    assert meter.values() == {"loss": 2.0, "cosine": 0.5, "norm": 9.0}
    now, meter.paused, meter.waited = 110.0, 2.0, 1.0
    assert meter.rates() == {"images_per_second": 2.0, "data_wait": 0.125}
    assert meter.seconds_per_step() == 4.0
    assert duration(3723) == "1:02:03"


def test_the_meter_weighs_figures_by_the_images_that_they_are_of() -> None:
    meter = Meter()
    meter.add({"loss": 4.0, "loss/a": 8.0, "loss/b": 0.0}, 0.25, {"loss/a": 0.5, "loss/b": 0.5})
    meter.add({"loss": 8.0, "loss/a": 8.0}, 0.75, {"loss/a": 1.0})
    meter.add({"loss": 1.0, "loss/a": 1.0}, 1.0, {"loss/a": 0.125})
    meter.steps = 2
    # Of 2 steps' images a has 1/8 + 3/4 + 1/8, b 1/8.
    assert meter.values() == {"loss": 4.0, "loss/a": 7.125, "loss/b": 0.0}
