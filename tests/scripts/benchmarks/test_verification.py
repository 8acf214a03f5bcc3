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
from scripts.benchmark_verification import adapted, main, parser
from tests.eval.test_onnx_model import write_network

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
BINS = ROOT / "tests" / "fixtures" / "bins"


def _run(tmp_path: Path, *arguments: object) -> dict[str, Any]:
    output = tmp_path / "results.json"
    output.unlink(missing_ok=True)
    assert main([*map(str, arguments), "--output", str(output), "--device", "cpu"]) == 0
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
    record = _run(tmp_path, "--model", model, "--folder", BINS, "--sets", "py3_list", "py2_list")
    first, second = record["sets"]
    assert [first["set"], second["set"]] == ["py3_list", "py2_list"]
    assert first["accuracy"] == second["accuracy"]
    assert first["sha256"] == hashlib.sha256((BINS / "py3_list.bin").read_bytes()).hexdigest()
    assert (first["pairs"], first["images"]) == (20, 40)
    assert first["tar_at_far"]["1e-4"] is None
    assert record["model"]["kind"] == "onnx"
    assert record["model"]["sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
    assert record["model"]["image_size"] == 112
    assert record["protocol"]["thresholds"].startswith("0, 0.01 ... 3.99")
    assert {"python", "torch", "numpy", "onnxruntime", "partialfc"} == set(record["versions"])
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split()[:3] == ["set", "pairs", "accuracy"]
    assert printed[1].startswith(f"py3_list  20     {first['accuracy']:.4f} ± ")


def test_the_input_can_be_adapted(tmp_path: Path) -> None:
    model = write_network(tmp_path / "net.onnx", ("n", 3, "h", "w"))
    common = ("--model", model, "--sets", BINS / "py3_list.bin")
    plain = _run(tmp_path, *common)["sets"][0]
    pixels = _run(tmp_path, *common, "--mean", 0, "--std", 1)["sets"][0]
    assert pixels["embedding_norm"] > 50 * plain["embedding_norm"]
    scaled = _run(tmp_path, *common, "--std", 255)["sets"][0]
    assert scaled["embedding_norm"] == pytest.approx(plain["embedding_norm"] / 2, rel=1e-6)


def test_channels_can_be_swapped() -> None:
    images = torch.rand(2, 3, 4, 4)
    seen: list[int] = []
    arguments = ["--model", "m", "--sets", "s", "--channels"]
    for channels, expected in (("rgb", images), ("bgr", images[:, [2, 1, 0]])):
        embed = adapted(
            lambda pixels: pixels, parser.parse_args([*arguments, channels]), seen.append
        )
        assert torch.equal(embed(images), expected)
    assert seen == [2, 2]


def test_weights_checkpoint_and_run_agree(
    tmp_path: Path, network: torch.nn.Module, small_set: Path
) -> None:
    weights = tmp_path / "weights.pt"
    torch.save(network.state_dict(), weights)
    bare = _run(tmp_path, "--model", weights, "--sets", small_set)
    assert bare["model"]["kind"] == "weights"
    assert bare["model"]["backbone"] == "mbf"

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
        assert record["model"]["kind"] == "checkpoint"
        assert record["model"]["step"] == 7
        assert record["sets"] == bare["sets"]
    averaged = _run(
        tmp_path, "--model", run, "--checkpoint", "best", "--weights", "ema", "--sets", small_set
    )
    assert (averaged["model"]["step"], averaged["model"]["weights"]) == (7, "ema")
    assert averaged["model"]["path"].endswith("backbone_ema.pt")
    assert any("collapsed" in warning for warning in averaged["sets"][0]["warnings"])
    latest = _run(tmp_path, "--model", run, "--sets", small_set)
    assert latest["model"]["step"] == 9
    assert any("collapsed" in warning for warning in latest["sets"][0]["warnings"])


def _fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main([*map(str, arguments), "--device", "cpu"]) == 1
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
    assert "--image-size is 112" in _fails(capsys, "--model", model, "--image-size", 112, *good)
    assert "--std is 0" in _fails(capsys, "--model", model, "--std", 0, *good)
    assert str(model) in _fails(capsys, "--model", model, "--weights", "ema", *good)
    assert str(tmp_path) in _fails(capsys, "--model", tmp_path, *good)
    assert str(tmp_path) in _fails(capsys, "--model", tmp_path, "--checkpoint", "best", *good)
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
    assert "absent" in _fails(capsys, *arguments, tmp_path / "absent" / "results.json")


def test_weights_of_a_training_checkpoint(
    tmp_path: Path, network: torch.nn.Module, small_set: Path
) -> None:
    weights = {f"module.{name}": value for name, value in network.state_dict().items()}
    torch.save({"epoch": 1, "state_dict": weights}, tmp_path / "checkpoint.pth")
    record = _run(tmp_path, "--model", tmp_path / "checkpoint.pth", "--sets", small_set)
    assert record["model"]["backbone"] == "mbf"
