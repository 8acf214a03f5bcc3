"""What `train.py` answers without training: --help, mistakes, --dry-run."""

import subprocess
import sys
from pathlib import Path

import pytest

from recognition.config_file import load_config
from tests.launch import ROOT, train
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
