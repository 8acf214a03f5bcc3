"""Tests of `scripts/export_model.py`."""

import json
from pathlib import Path

import pytest

from recognition import FaceEmbedder
from scripts import export_model
from tests.conftest import file_limit
from tests.recognition.inference.small_run import EMBEDDING, SIZE, faces, write_run

BINS = Path(__file__).parents[1] / "fixtures" / "bins"


@pytest.mark.slow
def test_a_run_becomes_a_folder_that_others_use(tmp_path: Path) -> None:
    run, output = write_run(tmp_path / "run"), tmp_path / "out"
    sets = ["--sets", str(BINS / "py3_list.bin")]
    assert export_model.main([str(run), str(output), "--fp16", "--name", "small", *sets]) == 0
    names = {"model.onnx", "model.pt2", "model.safetensors", "model_fp16.onnx"}
    assert {item.name for item in output.iterdir()} == names | {"config.json", "README.md"}
    config = json.loads((output / "config.json").read_text())
    assert set(config["files"]) == names
    assert (config["embedding_size"], config["image_size"], config["flip"]) == (
        EMBEDDING, SIZE, True,
    )  # fmt: skip
    for file in config["files"].values():
        assert [one["far"] for one in file["thresholds"]] == [1e-2, 1e-3, 1e-4, 1e-5]
        assert all(one["cosine"] is None and one["reason"] for one in file["thresholds"])
    card = (output / "README.md").read_text()
    assert "# small\n" in card
    assert "`model_fp16.onnx` | py3_list" in card
    assert "datasets:\n- people\n" in card
    assert str(tmp_path) not in card + json.dumps(config)
    assert FaceEmbedder.load(output, device="cpu").embed(faces(1)).shape == (1, EMBEDDING)


def test_mistakes_are_refused_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run")
    results = tmp_path / "results.json"
    results.write_text(json.dumps({"models": [], "sets": []}))
    lines = tmp_path / "metrics.jsonl"
    lines.write_text("{}\n{}\n")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for arguments, words in (
        ([str(run), "out", "--int8"], "--calibrate"),
        (
            [str(run), "out", "--calibrate-images", "0"],
            "--calibrate-images is 0, expected at least",
        ),
        ([str(run), "out", "--batch-size", "-5"], "--batch-size is -5, expected at least 1"),
        ([str(run), "out", "--results", str(results)], "results are of"),
        ([str(run), "out", "--results", str(lines)], "metrics.jsonl is no file of"),
        ([str(run), str(tmp_path / "full")], "full"),
        ([str(tmp_path / "absent"), "out"], "absent"),
    ):
        assert export_model.main(arguments) == 1
        assert words in capsys.readouterr().err


def test_a_full_disk_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, output = write_run(tmp_path / "run"), tmp_path / "out"
    with file_limit(5000):
        assert export_model.main([str(run), str(output)]) == 1
    words = f"{output} cannot be written: File too large; make room"
    assert words in capsys.readouterr().err
    assert not output.exists()
