"""Verification within a run, by sets and suites."""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.eval.suites.made_sets import write_folder
from tests.launch import train_well
from tests.test_train import metrics

pytestmark = pytest.mark.slow


def test_a_suite_verifies_beside_a_set_and_names_the_best(
    tiny_config: Path, tmp_path: Path
) -> None:
    write_folder(tmp_path / "faces")
    suite = tmp_path / "mine.yaml"
    made = f"made: {{format: folder, file: {tmp_path / 'faces'}}}"
    suite.write_text(f"fars: [0.1, 0.02, 1.0e-6]\npairs:\n  {made}\n")
    figure = "ema/made/tar_at_far/2e-2"
    settings = [f"verification.sets=[pairs, {suite}]", "train.ema=0.5", f"checkpoint.best={figure}"]
    options = [part for one in settings for part in ("--set", one)]
    train_well(["--config", str(tiny_config), *options], ranks=2)
    run = tmp_path / "run"
    for event in ("verification", "verification_ema"):
        found = [(line["step"], line["set"]) for line in metrics(run, event)]
        assert found == [(20, "pairs"), (20, "made"), (40, "pairs"), (40, "made")]
    verified = [line for line in metrics(run, "verification_ema") if line["set"] == "made"]
    assert verified[0]["tar_at_far"].keys() == {"1e-1", "2e-2", "1e-6"}
    assert verified[0]["tar_at_far"]["1e-6"] is None
    best = max(verified, key=lambda line: line["tar_at_far"]["2e-2"])  # the first of equals
    assert (run / "checkpoints" / "best").read_text().strip() == f"step_{best['step']:08d}"
    log = (run / "log.txt").read_text()
    assert "step 40, averaged weights | made: TAR@FAR 1e-1 " in log
    assert figure in log
    board = EventAccumulator(str(run / "tensorboard"))
    board.Reload()
    assert "verification_ema/made/tar_at_far/2e-2" in board.Tags()["scalars"]
