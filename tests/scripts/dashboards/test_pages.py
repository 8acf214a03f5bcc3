import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from recognition.distributed import World
from recognition.telemetry import Telemetry
from recognition.telemetry.layout import PAGES
from scripts.dashboards import pages
from scripts.dashboards.pages import VIEWS, View, look
from scripts.dashboards.server import browse, find_browser, serve
from scripts.show_dashboards import main
from tests.recognition.telemetry.fakes import FakeResult, fake_faces

SETTINGS = {"seed": 3, "head": {"scale": 64.0, "loss": {"name": "cosface"}}}
VALUES: dict[str, Any] = {
    "cosine_positive": 0.25,
    "lr": 0.125,
    "gradient_norm": 4.0,
    "epoch": 0.5,
    "active_classes_by_rank": {"0": 100.0, "1": 96.0},
    "active_classes": 196.0,
    "positive_classes": 60.0,
    "gradient_norm_centres": 2.0,
    "selection_seconds": 0.5,
    "quota_overflow": 0.0,
    "images_per_second": 640.0,
    "data_wait_by_rank": {"0": 0.25, "1": 0.75},
    "memory": {"backbone": 1.0, "head_state": 2.0, "rest": 3.0},
    "memory_gb_by_rank": {"0": 6.0, "1": 7.0},
    "skipped_steps": 1.0,
}

needs_browser = pytest.mark.skipif(
    find_browser() is None or importlib.util.find_spec("playwright") is None,
    reason="needs Chromium and playwright",
)


def write_run(folder: Path) -> None:
    with Telemetry(folder, world=World(), total_steps=2, settings=SETTINGS) as telemetry:
        telemetry.text("config", "seed: 3\nhead: {scale: 64.0}\n")
        telemetry.images("data/first_batch", torch.rand(8, 3, 16, 16), 0)
        for step in (1, 2):
            samples = {"cosine_positive": np.linspace(-0.5, 0.5 * step, 50)}
            telemetry.train(step, {"loss": 3.0 - step, **VALUES}, "a line", samples)
            telemetry.verification(step, [FakeResult(accuracy=0.5 + 0.125 * step)])


def drawn(seen: dict[str, Any], title: str) -> dict[str, float]:
    """Return the last value of each curve of a chart, without the run's name."""
    charts = {name: chart for page in PAGES for name, chart in seen[page.lower()].items()}
    return {name.split()[0]: value for name, value in charts[title].items()}


@needs_browser
@pytest.mark.slow
def test_the_pages_show_what_was_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "DRAWN", 0)
    write_run(tmp_path / "runs" / "one")
    errors: list[str] = []
    with serve(tmp_path / "runs") as url, browse() as page:
        page.on("pageerror", lambda error: errors.append(str(error)))
        seen = look(page, url, VIEWS, tmp_path)
    assert errors == []

    assert drawn(seen, "Loss") == {"train/loss": 1.0}
    assert drawn(seen, "Active classes of each rank") == {
        "train/active_classes_by_rank/0": 100.0, "train/active_classes_by_rank/1": 96.0,
    }  # fmt: skip
    assert drawn(seen, "Accuracy") == {"verification/lfw/accuracy": 0.75}
    assert drawn(seen, "True accept rate by false accept rate") == {
        "verification/lfw/tar_at_far/1e-2": 0.75, "verification/lfw/tar_at_far/1e-3": 0.5,
    }  # fmt: skip
    assert drawn(seen, "Memory by part, GiB, rank 0") == {
        f"train/memory/{name}": value for name, value in VALUES["memory"].items()
    }  # fmt: skip
    for title, charts in PAGES.items():
        assert list(seen[title.lower()]) == list(charts)
        empty = [name for name, chart in seen[title.lower()].items() if not chart]
        assert set(empty) <= {
            "Accuracy without mirror images", "Threshold, as a cosine",
            "Mean norm of the embeddings",
        }  # fmt: skip
    assert seen["samples"] == {"samples/cosine_positive": 2}  # of two steps
    assert seen["sets"].keys() == {
        "data/first_batch", "verification_pairs/lfw/roc", "verification_pairs/lfw/scores",
    }  # fmt: skip
    assert seen["sets"]["data/first_batch"] == [8 * 16, 16]
    assert seen["config"] == "seed: 3\nhead: {scale: 64.0}"
    (row,) = seen["runs"]
    assert row["head.loss.name"] == "cosface"
    assert (float(row["verification/lfw/accuracy"]), float(row["train/loss"])) == (0.75, 1.0)
    count, size = fake_faces().embeddings.shape
    assert seen["faces"] == {"points": str(count), "dimensions": str(size)}
    for view in VIEWS:
        with Image.open(tmp_path / f"{view.name}.png") as picture:
            assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 20


@needs_browser
@pytest.mark.slow
def test_a_page_that_stays_empty_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "WAIT", 0.5)
    with browse() as page, pytest.raises(TimeoutError, match="nothing"):
        look(page, "about:blank", [View("nothing", "x", lambda page: {})], None)


def test_a_folder_that_is_missing_is_a_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "none")]) == 1
    assert str(tmp_path / "none") in capsys.readouterr().err
