import gc
import logging
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from recognition.distributed import World
from recognition.telemetry import Telemetry
from recognition.telemetry import telemetry as telemetry_module
from recognition.telemetry.plots import draw_roc, draw_scores, roc, score_histogram
from tests.recognition.telemetry.fakes import FakeResult, FakeScores, fake_scores


def test_the_curve_is_that_of_the_definition() -> None:
    scores = fake_scores()
    rounded = FakeScores(scores.cosine.round(1), scores.same)  # with many equal cosines
    for each in (scores, rounded):
        false, true = roc(each)
        expected = roc_curve(each.same, each.cosine, drop_intermediate=False)
        np.testing.assert_allclose(false, expected[0])
        np.testing.assert_allclose(true, expected[1])


def test_pairs_of_both_kinds_are_counted_in_the_same_intervals() -> None:
    scores = fake_scores()
    found = score_histogram(scores)
    assert (sum(found["same"]), sum(found["different"])) == (100, 100)
    assert found["range"] == [scores.cosine.min(), scores.cosine.max()]
    collapsed = FakeScores(np.ones(10), np.arange(10) % 2 == 0)
    assert sum(score_histogram(collapsed)["same"]) == 5
    draw_roc("lfw", collapsed)


def test_pictures_have_content() -> None:
    for draw in (draw_roc, draw_scores):
        pixels = draw("lfw", fake_scores())
        assert pixels.dtype == np.uint8
        assert pixels.shape[2] == 3
        assert (pixels[0] == 255).all()  # nothing is cut off at the margin
        assert (pixels[:, -1] == 255).all()
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50


def test_drawings_leave_nothing_behind() -> None:
    scores = fake_scores()
    other = FakeScores(scores.cosine[:50], scores.same[:50])
    first = draw_roc("lfw", scores)
    gc.collect()
    gc.disable()  # what only a search for cycles would free stays
    try:
        before = count_figures()
        draw_scores("cfp", other)
        draw_roc("cfp", other)
        again = draw_roc("lfw", scores)
        assert count_figures() == before
    finally:
        gc.enable()
    np.testing.assert_array_equal(again, first)


def count_figures() -> int:
    return sum(type(one).__name__ == "Figure" for one in gc.get_objects())


def test_without_matplotlib_one_line_says_what_is_missing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telemetry_module, "can_draw", lambda: False)
    caplog.set_level(logging.INFO)
    with Telemetry(tmp_path, world=World(), total_steps=2) as telemetry:
        for step in (1, 2):
            telemetry.verification(step, [FakeResult(), FakeResult("cfp")])
    assert caplog.text.count("'.[plots]'") == 1
    assert (tmp_path / "metrics.jsonl").read_text().count("score_histogram") == 4
