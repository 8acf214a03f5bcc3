from pathlib import Path

import numpy as np
import torch
from google.protobuf import text_format  # type: ignore[import-untyped]
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.api_pb2 import Status
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

from recognition.distributed import World
from recognition.telemetry import Telemetry
from recognition.telemetry.layout import PAGES
from tests.recognition.telemetry.fakes import FakeResult, fake_faces

SETTINGS = {"seed": 3, "head": {"scale": 64.0, "loss": {"name": "cosface"}}, "log": {"every": 1}}


def write_run(folder: Path, *, fails: bool = False) -> EventAccumulator:
    try:
        with Telemetry(folder, world=World(), total_steps=2, settings=SETTINGS) as telemetry:
            telemetry.images("data/first_batch", torch.full((10, 3, 4, 4), 0.5), 0)
            for step in (1, 2):
                values = {"loss": 3.0 - step, "memory": {"rest": 0.5}, "cosine_positive": 0.25}
                samples = {"cosine_positive": np.linspace(-0.5, 0.5 * step, 50)}
                telemetry.train(step, values, "a line", samples)
            telemetry.verification(2, [FakeResult()])
            if fails:
                raise KeyError("in the training")
    except KeyError:
        pass
    return EventAccumulator(str(folder / "tensorboard"), {"images": 0, "histograms": 0}).Reload()


def test_pictures_and_histograms_are_on_the_board(tmp_path: Path) -> None:
    board = write_run(tmp_path)
    assert board.Scalars("train/memory/rest")[0].value == 0.5
    assert [event.step for event in board.Histograms("samples/cosine_positive")] == [1, 2]
    last = board.Histograms("samples/cosine_positive")[1].histogram_value
    assert (last.min, last.max, last.num, sum(last.bucket)) == (-0.5, 1.0, 50, 50)
    assert set(board.Tags()["images"]) == {
        "data/first_batch", "verification_pairs/lfw/roc", "verification_pairs/lfw/scores",
    }  # fmt: skip
    grid = board.Images("data/first_batch")[0]
    assert (grid.height, grid.width) == (2 * 4, 8 * 4)  # ten images in rows of eight
    for kind in ("roc", "scores"):
        assert board.Images(f"verification_pairs/lfw/{kind}")[0].step == 2


def test_custom_scalars_have_the_pages(tmp_path: Path) -> None:
    board = write_run(tmp_path)
    tensor = board.Tensors("custom_scalars__config__")[0].tensor_proto
    layout = Layout.FromString(tensor.string_val[0])
    assert [page.title for page in layout.category] == list(PAGES)
    assert [chart.title for chart in layout.category[0].chart] == list(PAGES["Training"])
    assert list(layout.category[0].chart[0].multiline.tag) == PAGES["Training"]["Loss"]


def test_the_table_of_runs_has_settings_and_final_figures(tmp_path: Path) -> None:
    found = write_run(tmp_path).PluginTagToContent("hparams")
    content = found[metadata.SESSION_START_INFO_TAG]
    start = metadata.parse_session_start_info_plugin_data(content)
    assert start.hparams["head.scale"].number_value == 64.0
    assert "log.every" not in start.hparams
    experiment = metadata.parse_experiment_plugin_data(found[metadata.EXPERIMENT_TAG])
    assert {info.name for info in experiment.hparam_infos} == set(start.hparams)
    assert {info.name.tag for info in experiment.metric_infos} == {
        "train/loss", "train/cosine_positive", "verification/lfw/accuracy",
        "verification/lfw/tar_at_far/1e-3",
    }  # fmt: skip
    end = metadata.parse_session_end_info_plugin_data(found[metadata.SESSION_END_INFO_TAG])
    assert end.status == Status.STATUS_SUCCESS


def test_a_run_that_failed_has_no_end_and_goes_on_with_one(tmp_path: Path) -> None:
    board = write_run(tmp_path, fails=True)
    assert list(board.PluginTagToContent("hparams")) == [metadata.SESSION_START_INFO_TAG]
    assert metadata.SESSION_END_INFO_TAG in write_run(tmp_path).PluginTagToContent("hparams")


def test_the_projector_has_a_point_and_a_picture_of_each_face(tmp_path: Path) -> None:
    write_run(tmp_path)
    folder, faces = tmp_path / "tensorboard", fake_faces()
    text = (folder / "projector_config.pbtxt").read_text()
    config = text_format.Parse(text, ProjectorConfig()).embeddings[0]
    assert config.tensor_name == "lfw"
    unit = faces.embeddings / np.linalg.norm(faces.embeddings, axis=1, keepdims=True)
    np.testing.assert_allclose(np.loadtxt(folder / config.tensor_path), unit, atol=1e-4)
    people = (folder / config.metadata_path).read_text().splitlines()
    assert people == [f"person {person}" for person in faces.people]
    side = config.sprite.single_image_dim[0]
    with Image.open(folder / config.sprite.image_path) as sprite:
        assert sprite.size == (3 * side, 3 * side)  # six faces in a square
        blue = sprite.getpixel((side + side // 2, side // 2))
    assert isinstance(blue, tuple)
    np.testing.assert_allclose(blue, (40, 0, 255), atol=6)  # the second one
