"""What `train.py` answers without training: --help, mistakes, --dry-run."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from backbones import build_backbone
from recognition.config_file import load_config
from tests.launch import ROOT, train, train_well
from train import parse

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("arguments", "code"), [(["--help"], 0), (["--confg", "x"], 2)])
def test_help_and_mistakes_are_answered_before_torch_is_imported(
    arguments: list[str], code: int
) -> None:
    command = [sys.executable, "-X", "importtime", "train.py", *arguments]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == code
    assert "--config" in ended.stdout + ended.stderr
    imported = {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines()}
    assert "argparse" in imported
    assert not {"torch", "numpy", "pydantic"} & imported


@pytest.mark.parametrize("name", ["2025", "#1", "runs/[a]", "1e3", "été 😀", 'a"b\\c', "~"])
def test_any_folder_can_be_the_output(name: str, tiny_config: Path) -> None:
    options = parse(["--config", str(tiny_config), "--output", name])
    assert load_config(tiny_config, options.output).output == Path(name)


def test_a_dry_run_of_a_published_recipe_needs_no_data(tmp_path: Path) -> None:
    absent = tmp_path / "train-*.rec"
    recipe = ["--config", str(ROOT / "configs" / "ms1mv3_r50_one_gpu.yaml"), "--dry-run"]
    recipe += ["--set", f"data.train={absent}", "--set", "train.device=cpu"]
    ended = train(recipe)[0]
    assert ended.code == 0, ended.output
    for text in (
        "5,179,510 images of 93,431 identities",
        f"{absent} is not here",
        "93,431 class",
        "train.precision",
    ):
        assert text in ended.output
    # Without its numbers the plan is unknown, and the message names what is not there.
    ended = train([*recipe, "--set", "data.num_images=null"])[0]
    assert ended.code == 1
    assert str(absent) in ended.output
    assert "Traceback" not in ended.output


def test_a_dry_run_looks_at_what_a_new_run_starts_from(tiny_config: Path, tmp_path: Path) -> None:
    for size in (16, 24):
        weights = build_backbone("rtiny", embedding_size=size, image_size=32).state_dict()
        torch.save(weights, tmp_path / f"{size}.pt")
    for classes in (12, 13):
        (tmp_path / f"of_{classes}").mkdir()
        centres = {"weight": torch.randn(classes, 16)}
        torch.save(centres, tmp_path / f"of_{classes}" / "softmax_fc_gpu_0.pt")
    command = ["--config", str(tiny_config), "--dry-run", "--set"]
    for setting, words in (
        ("init_from={}/absent.pt", "absent.pt does not exist"),
        ("init_from={}/24.pt", "embedding_size is 24, expected 16"),
        ("head.init_from={}/absent", "absent has no class centres"),
        ("head.init_from={}/of_12", "12 classes of 16 numbers in 1 files, expected 13 of 16"),
    ):
        ended = train([*command, setting.format(tmp_path)])[0]
        assert ended.code == 1
        assert words in ended.output
    good = [f"init_from={tmp_path}/16.pt", "--set", f"head.init_from={tmp_path}/of_13"]
    train_well([*command, *good, "--resume", "auto"])
    # A checkpoint has its own: what the run once started from may be gone.
    step = tmp_path / "run" / "checkpoints" / "step_00000001"
    train_well(["--config", str(tiny_config), "--set", "train.steps=1"])
    assert step.is_dir()
    train_well([*command, "init_from=absent.pt", "--resume", "auto"])
