import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scripts import check_machine
from scripts.check_machine import STEPS, TOTAL, check, main
from scripts.machine.step import FULL, GOOD, QUICK, SKIPPED, TINY, Context, Step, Verdict
from tests.launch import ROOT


def test_without_a_gpu_one_sentence_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["--output", str(tmp_path / "none")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("arguments", [["--device", "cpu"], ["--quick", "--only", "fp16"]])
def test_mistakes_end_in_one_line(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert main(arguments) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_the_steps_fit_the_time_that_is_promised() -> None:
    limits = {scale: [step.limits.get(scale, 0.0) for step in STEPS] for scale in TOTAL}
    # Most steps take a part of their limits; the last gets what the others leave.
    assert sum(limits[FULL][:-1]) <= TOTAL[FULL] + 90
    assert TOTAL[FULL] < 540
    assert TOTAL[QUICK] < 90
    # Compiling takes long on a CPU too, and runs no code of this project.
    assert [step.name for step in STEPS if TINY not in step.limits] == ["compiled"]


@pytest.mark.slow
def test_importing_the_command_leaves_cuda_alone() -> None:
    """The steps' processes are forked from one that imported it, and need CUDA to be untouched."""
    code = """
import torch
def touched(*arguments): raise AssertionError("CUDA was initialised by an import")
torch._C._cuda_getDeviceCount = torch._C._cuda_init = torch.cuda._lazy_init = touched
import scripts.check_machine
"""
    run = [sys.executable, "-c", code]
    ended = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert ended.returncode == 0, ended.stderr[-2000:]


def _good(context: Context) -> Verdict:
    return Verdict(GOOD, "done")


def _bad(context: Context) -> Verdict:
    raise ValueError("bad")


@pytest.mark.slow
def test_the_next_step_follows_a_failure_and_the_end_of_time_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    steps = [Step(run.__name__, "", run, {TINY: 50}) for run in (_bad, _good)]
    report = {
        "command": "", "settings": "", "scale": TINY,
        "machine": {"device": "", "cores": 1, "threads": 1, "versions": {}, "commit": None},
    }  # fmt: skip
    assert check(steps, tmp_path, "cpu", report) == 1
    found = json.loads((tmp_path / "results.json").read_text())["steps"]
    assert [one["verdict"]["status"] for one in found.values()] == ["failed", GOOD]
    assert check(steps[1:], tmp_path, "cpu", report) == 0

    monkeypatch.setitem(check_machine.TOTAL, TINY, 1.0)
    assert check(steps, tmp_path, "cpu", report) == 0
    found = json.loads((tmp_path / "results.json").read_text())["steps"]
    assert [one["verdict"]["status"] for one in found.values()] == [SKIPPED] * 2
    assert [file.name for file in tmp_path.iterdir() if file.is_dir()] == []


@pytest.mark.slow
def test_a_rehearsal_runs_every_step(tmp_path: Path) -> None:
    command = [sys.executable, "scripts/check_machine.py", "--tiny", "--output", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    page = (tmp_path / "page.md").read_text()
    found = json.loads((tmp_path / "results.json").read_text())["steps"]
    steps = [step.name for step in STEPS if TINY in step.limits]
    assert list(found) == steps
    assert all(one["verdict"]["status"] == GOOD and one["rows"] for one in found.values()), page
    assert {file.name for file in tmp_path.iterdir()} == {
        "page.md", "results.json", *(f"{name}.log" for name in steps)
    }  # fmt: skip
