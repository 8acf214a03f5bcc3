import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backbones import build_backbone
from data.pairs.bin_file import read_pair_file, write_pair_file
from recognition.checkpoint import Checkpoints, State
from recognition.distributed import World
from scripts.benchmark_verification import main
from tests.recognition.inference.test_onnx_model import write_network

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
BINS = ROOT / "tests" / "fixtures" / "bins"


def _run(tmp_path: Path, *arguments: object) -> dict[str, Any]:
    output = tmp_path / "results.json"
    for file in (output, output.with_suffix(".html")):
        file.unlink(missing_ok=True)
    options = ["--output", output, "--cache", tmp_path / "cache", "--device", "cpu"]
    assert main([*map(str, [*arguments, *options])]) == 0
    record: dict[str, Any] = json.loads(output.read_text())
    return record


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return build_backbone("mbf", embedding_size=32)


@pytest.fixture(scope="module")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pairs = read_pair_file(BINS / "py3_list.bin")
    path = tmp_path_factory.mktemp("sets") / "small.bin"
    write_pair_file(path, pairs.images[:20], pairs.same[:10])
    return path


def test_an_onnx_file_over_several_sets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_network(tmp_path / "net.onnx", ("n", 3, "h", "w"))
    arguments = ("--model", model, "--folder", BINS, "--sets", "py3_list", "py2_list")
    record = _run(tmp_path, *arguments)
    first, second = record["sets"]
    assert [first["set"], second["set"]] == ["py3_list", "py2_list"]
    assert first["ten_fold"] == second["ten_fold"]
    digest = hashlib.sha256((BINS / "py3_list.bin").read_bytes()).hexdigest()
    assert first["files"] == [{"path": str(BINS / "py3_list.bin"), "sha256": digest}]
    assert first["counts"]["genuine"] + first["counts"]["impostor"] == 20
    assert first["verification"]["rows"][3]["point"]["tar"] is None
    (net,) = record["models"]
    assert (net["name"], net["kind"], net["image_size"]) == ("net", "onnx", 112)
    assert net["file"]["sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
    # Both sets have the same images, so the second costs nothing.
    assert net["cost"]["cached_sets"] == ["py2_list"]
    assert net["cost"]["forward_passes"] == 2 * first["counts"]["images"]
    run = record["run"]
    assert run["protocol"]["ten_fold_thresholds"].startswith("0, 0.01 ... 3.99")
    assert {"python", "torch", "numpy", "partialfc"} == set(run["versions"])
    assert "onnxruntime" in net["details"]
    assert str(model) in run["command"]
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split()[:3] == ["set", "pairs", "accuracy"]
    assert printed[1].startswith(f"py3_list  20     {first['ten_fold']['accuracy']:.4f} ± ")

    again = _run(tmp_path, *arguments)
    assert again["sets"] == record["sets"]
    assert again["models"][0]["cost"]["forward_passes"] == 0


def test_the_input_can_be_adapted(tmp_path: Path) -> None:
    model = write_network(tmp_path / "net.onnx", ("n", 3, "h", "w"))
    common = ("--model", model, "--sets", BINS / "py3_list.bin")
    plain = _run(tmp_path, *common)["sets"][0]["ten_fold"]
    pixels = _run(tmp_path, *common, "--mean", 0, "--std", 1)["sets"][0]["ten_fold"]
    assert pixels["embedding_norm"] > 50 * plain["embedding_norm"]
    scaled = _run(tmp_path, *common, "--std", 255)["sets"][0]["ten_fold"]
    assert scaled["embedding_norm"] == pytest.approx(plain["embedding_norm"] / 2, rel=1e-6)


def test_a_suite_and_several_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        models.append(write_network(tmp_path / name / f"{name}.onnx", ("n", 3, "h", "w")))
    suite = tmp_path / "suite.yaml"
    suite.write_text("replicates: 20\nfars: [0.1]\npairs:\n  made: {file: py3_list.bin}\n")
    record = _run(
        tmp_path, "--model", models[0], "--compare", models[1], "--suite", suite, "--folder", BINS
    )
    assert [model["name"] for model in record["models"]] == ["one", "two"]
    assert record["run"]["suite"]["path"] == str(suite)
    (compared,) = record["comparisons"]
    assert (compared["model"], compared["baseline"], compared["difference"]) == ("two", "one", 0.0)
    assert "made [two]" in capsys.readouterr().out
    page = (tmp_path / "results.html").read_text(encoding="utf-8")
    assert f'data-figure="/comparisons/0/difference">{compared["difference"]:+.4f}<' in page
    assert page.count("<img ") == 2 * 2 * 2 * 10 + 2 * 10  # of pairs, and of the worst quality
    _run(tmp_path, "--model", models[0], "--suite", suite, "--folder", BINS, "--no-faces")
    assert "<img " not in (tmp_path / "results.html").read_text(encoding="utf-8")


def test_weights_checkpoint_and_run_agree(
    tmp_path: Path, network: torch.nn.Module, small_set: Path
) -> None:
    weights = tmp_path / "weights.pt"
    torch.save(network.state_dict(), weights)
    bare = _run(tmp_path, "--model", weights, "--sets", small_set)
    assert bare["models"][0]["kind"] == "weights"
    assert bare["models"][0]["details"]["backbone"] == "mbf"

    run = tmp_path / "run"
    checkpoints = Checkpoints(run, world=World(), keep=2)
    facts = {"config": {"data": {"image_size": 112}}}
    other = {"one": torch.ones(1)}
    good = State(backbone=network.state_dict(), replicated=other, rows={}, metadata=facts)
    zeros = {name: torch.zeros_like(value) for name, value in network.state_dict().items()}
    good = replace(good, average=zeros)
    best = checkpoints.save(7, good, best=True)
    checkpoints.save(9, replace(good, backbone=zeros), best=False)

    for arguments in ([best], [run, "--checkpoint", "best"]):
        record = _run(tmp_path, "--model", *arguments, "--sets", small_set)
        assert record["models"][0]["kind"] == "checkpoint"
        assert record["models"][0]["details"]["step"] == 7
        name = {"model": record["models"][0]["name"]}
        assert record["sets"] == [one | name for one in bare["sets"]]
    averaged = _run(
        tmp_path, "--model", run, "--checkpoint", "best", "--weights", "ema", "--sets", small_set
    )
    details = averaged["models"][0]["details"]
    assert (details["step"], details["weights"]) == (7, "ema")
    assert averaged["models"][0]["file"]["path"].endswith("backbone_ema.pt")
    assert any("collapsed" in warning for warning in averaged["sets"][0]["warnings"])
    latest = _run(tmp_path, "--model", run, "--sets", small_set)
    assert latest["models"][0]["details"]["step"] == 9
    assert any("collapsed" in warning for warning in latest["sets"][0]["warnings"])


def _fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main([*map(str, arguments), "--no-cache", "--device", "cpu"]) == 1
    message = capsys.readouterr().err.strip()
    assert message.startswith("error: ")
    assert "\n" not in message
    return message


def test_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_network(tmp_path / "net.onnx")
    good = ("--sets", BINS / "py3_list.bin")
    absent = tmp_path / "absent"
    assert f"{absent} " in _fails(capsys, "--model", absent, *good)
    assert "numpy_arrays, py2_list, py3_list" in _fails(
        capsys, "--model", model, "--folder", BINS, "--sets", "lfw"
    )
    assert "image_size is 112" in _fails(capsys, "--model", model, "--image-size", 112, *good)
    assert "std is 0" in _fails(capsys, "--model", model, "--std", 0, *good)
    assert str(model) in _fails(capsys, "--model", model, "--weights", "ema", *good)
    assert str(tmp_path) in _fails(capsys, "--model", tmp_path, *good)
    assert str(tmp_path) in _fails(capsys, "--model", tmp_path, "--checkpoint", "best", *good)
    good_model = ("--model", model)
    assert "twice" in _fails(capsys, *good_model, *good, BINS / "py3_list.bin")
    assert "--batch-size" in _fails(capsys, *good_model, *good, "--batch-size", 0)
    assert "once" in _fails(capsys, *good_model, *good, "--compare", model)
    malicious = BINS / "malicious.bin"
    assert "malicious.bin" in _fails(capsys, "--model", malicious, *good)
    damaged = tmp_path / "weights.pt"
    damaged.write_bytes(b"no weights")
    assert "weights.pt" in _fails(capsys, "--model", damaged, *good)
    torch.save({"w": torch.from_numpy(np.ones(3))}, damaged)
    assert "weights.pt" in _fails(capsys, "--model", damaged, *good)


def test_earlier_figures_are_not_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_network(tmp_path / "net.onnx")
    output = tmp_path / "results.json"
    output.write_text("earlier")
    arguments = ("--model", model, "--sets", BINS / "py3_list.bin", "--output")
    assert str(output) in _fails(capsys, *arguments, output)
    assert output.read_text() == "earlier"
    page = tmp_path / "other.html"
    page.write_text("earlier")
    assert str(page) in _fails(capsys, *arguments, tmp_path / "other.json")
    assert ".html" in _fails(capsys, *arguments, tmp_path / "new.html")
    assert "absent" in _fails(capsys, *arguments, tmp_path / "absent" / "results.json")


def test_weights_of_a_training_checkpoint(
    tmp_path: Path, network: torch.nn.Module, small_set: Path
) -> None:
    weights = {f"module.{name}": value for name, value in network.state_dict().items()}
    torch.save({"epoch": 1, "state_dict": weights}, tmp_path / "checkpoint.pth")
    record = _run(tmp_path, "--model", tmp_path / "checkpoint.pth", "--sets", small_set)
    assert record["models"][0]["details"]["backbone"] == "mbf"
