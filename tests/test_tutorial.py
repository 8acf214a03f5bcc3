"""The commands of docs/tutorial.md, word for word, on photos of the demo's people."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "tutorial.md"

# README's first command, shortened: what the page begins with.
DEMO = (
    "torchrun --nproc-per-node=2 train.py --config configs/demo.yaml "
    "--set data.demo.identities=200 --set data.demo.images=2000 --set train.epochs=null "
    "--set train.steps=90 --set schedule.warmup_epochs=null --set schedule.warmup_steps=10 "
    "--set verification.before_training=false --set verification.every_epochs=null"
)


def commands() -> list[str]:
    """The page's commands, without the installation."""
    blocks = re.findall(r"^```bash\n(.+?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    return [block.strip() for block in blocks if not block.startswith("pip install")]


def test_the_page_has_ten_commands() -> None:
    numbers = re.findall(r"^\*\*(\d+)\. ", PAGE.read_text(), re.MULTILINE)
    assert numbers == [str(number) for number in range(1, 11)]
    assert len(commands()) == 1 + len(numbers)  # the first draws the photos


@pytest.mark.slow
@pytest.mark.tutorial
@pytest.mark.timeout(1500)
def test_photos_become_a_network_in_use(tmp_path: Path) -> None:
    for name in ("configs", "scripts", "train.py"):
        (tmp_path / name).symlink_to(ROOT / name)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    printed = {}
    for command in (DEMO, *commands()):
        done = subprocess.run(
            ["bash", "-euc", command], cwd=tmp_path, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout}"
        printed[command.split()[1]] = done.stdout
    assert len(list((tmp_path / "held_out").iterdir())) == 20
    # The thresholds are those that were measured, and the verdict rests on them.
    files = json.loads((tmp_path / "exported" / "config.json").read_text())["files"]
    by_far = {one["far"]: one["cosine"] for one in files["model.onnx"]["thresholds"]}
    assert f"cosine above {by_far[1e-4]:.4f}" in printed["scripts/compare_faces.py"]
    # The query is in the gallery, so it is the first of five.
    found = printed["scripts/search_faces.py"].splitlines()
    assert found[0].split() == ["1", "1.0000", "person-10040", "person-10040/002.jpg"]
    assert [line.split()[0] for line in found[:5]] == ["1", "2", "3", "4", "5"]
    for picture in ("sheet.png", "found.png", "results.html"):
        assert (tmp_path / picture).stat().st_size > 10_000
