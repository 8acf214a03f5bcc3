from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from recognition.distributed import World
from recognition.telemetry import Telemetry
from tests.recognition.telemetry.fakes import FakeResult

mlflow = pytest.importorskip("mlflow")


@pytest.mark.slow
def test_the_file_store_holds_what_was_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    settings = {"head": {"scale": 64.0, "name": "x" * 9999}, **{f"s{n}": n for n in range(150)}}
    for first_step in (0, 1):  # the second goes on with the first
        telemetry = Telemetry(
            tmp_path, world=World(), total_steps=2, loggers=["mlflow"], settings=settings
        )
        telemetry.first_step = first_step
        with telemetry:
            telemetry.text("config", "seed: 3\n")
            telemetry.images("data/first_batch", torch.zeros(2, 3, 4, 4), first_step)
            values = {"loss": 2.0 - first_step, "loss/a": 5.0}
            telemetry.train(first_step + 1, values, "a line", {"cosine": np.zeros(3)})
            telemetry.verification(first_step + 1, [FakeResult()])
    assert [record.levelname for record in caplog.records if "lost" in record.message] == []

    client = mlflow.MlflowClient(tracking_uri=(tmp_path / "mlflow").as_uri())
    experiment = client.get_experiment_by_name("partialfc").experiment_id
    (run,) = client.search_runs([experiment])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == tmp_path.name
    assert run.data.params["head.scale"] == "64.0"
    assert run.data.params["s149"] == "149"
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(each.step, each.value) for each in history] == [(1, 2.0), (2, 1.0)]
    assert run.data.metrics["train/loss.a"] == 5.0
    assert run.data.metrics["verification/lfw.tar_at_far.1e-3"] == 0.5
    artifacts = next(tmp_path.glob(f"mlflow/*/{run.info.run_id}/artifacts"))
    assert (artifacts / "config.txt").read_text() == "seed: 3\n"
    with Image.open(artifacts / "verification_pairs/lfw/roc/step_00000002.png") as image:
        assert image.size[0] > 300
