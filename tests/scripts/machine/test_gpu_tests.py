import importlib.util
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import torch

from scripts.machine.gpu_tests import run, test_files
from scripts.machine.step import SKIPPED, TINY, Context
from tests.launch import ROOT

test_files.__test__ = False  # type: ignore[attr-defined]


def test_every_file_that_uses_a_gpu_is_marked() -> None:
    uses = ("is_available() else", "not torch.cuda.is_available()", "kernel_cases import")
    found = {
        file
        for file in (ROOT / "tests").rglob("test_*.py")
        if any(one in file.read_text(encoding="utf-8") for one in uses) and file != Path(__file__)
    }
    assert found <= set(test_files())
    assert len(found) >= 8


def test_without_pytest_the_step_is_skipped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def find(name: str) -> ModuleSpec | None:
        return None if name == "xdist" else ModuleSpec(name, None)

    monkeypatch.setattr(importlib.util, "find_spec", find)
    verdict = run(Context(torch.device("cpu"), TINY, tmp_path, 60.0, lambda kind, value: None))
    assert verdict.status == SKIPPED
    assert "xdist" in verdict.words
