"""A sample of the attacks; `python -m tests.chaos.checkpoints --all` tries everything."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.slow
def test_no_attack_on_checkpoints_does_harm() -> None:
    # In a small process of its own: it forks, and its hooks cannot be taken away again.
    ended = subprocess.run(
        [sys.executable, "-m", "tests.chaos.checkpoints"],
        cwd=ROOT, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr[-2000:]
    assert "hostile folders" in ended.stdout
