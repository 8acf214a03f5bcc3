"""Kernels that hash class ids, bit for bit against `class_hash`."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from recognition.head.hashing import class_hash
from recognition.head.sampling import by_score, rule
from recognition.head.sampling.build import SAMPLINGS
from recognition.head.sampling.rule import SampleRequest
from tests.recognition.head.kernels.kernel_cases import DEVICE

from recognition.head.kernels import triton_hash  # isort: skip

pytestmark = pytest.mark.gpu

ROOT = Path(__file__).parents[4]
SEED, STEP = 3, 10**9
STARTS = [0, 12_345, 2**31 - 700, 2**31 + 5, 2**32 - 5000]
# One short of, at, and one past a program's classes; one class; several programs.
SIZES = [1, 2047, 2048, 2049, 4999]


def _hashes(start: int, size: int) -> Tensor:
    return class_hash(torch.arange(start, start + size, device=DEVICE), SEED, STEP)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("size", SIZES)
def test_classes_below_the_threshold_join_the_mask(start: int, size: int) -> None:
    hash_L = _hashes(start, size)
    before_L = torch.arange(size, device=DEVICE) % 7 == 0
    for threshold in (0, int(hash_L[size // 2]), int(hash_L[size // 2]) + 1, 2**31, 2**32):
        for given in (threshold, torch.tensor(threshold, device=DEVICE)):
            mask_L = before_L.clone()
            triton_hash.draw(mask_L, given, start, SEED, STEP)
            assert torch.equal(mask_L, before_L | (hash_L < threshold))


def test_classes_are_drawn_in_a_part_of_larger_memory_alone() -> None:
    memory = torch.zeros(2100, dtype=torch.bool, device=DEVICE)
    triton_hash.draw(memory[3:2090], 2**32, 5, SEED, STEP)

    assert memory[3:2090].all()
    assert not memory[:3].any()
    assert not memory[2090:].any()


def _request(start: int, size: int) -> SampleRequest:
    labels = torch.tensor([start, start + size // 2, start + size - 1, 0], device=DEVICE)
    return SampleRequest(labels, start, start + size, 2**32, 0.25, SEED, STEP)


def _with_kernels(monkeypatch: pytest.MonkeyPatch, *, used: bool) -> None:
    kernels = triton_hash if used else None
    for module in (rule, by_score):
        monkeypatch.setattr(module, "hash_kernels", lambda device: kernels)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("name", ["random_negative", "random_all"])
def test_rules_draw_the_same_classes(
    start: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, found = _request(start, 4999), []
    for used in (True, False):
        _with_kernels(monkeypatch, used=used)
        index = SAMPLINGS[name]()(request).rows.index
        assert index is not None
        found.append(index)

    assert torch.equal(*found)


@pytest.mark.parametrize("size", SIZES)
def test_scores_rank_as_in_torch(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    values = [0.5, -0.5, 0.0, -0.0, -torch.inf, torch.inf, 1e-40, -1e-40, torch.nan]
    score_L = torch.tensor(values, device=DEVICE)[torch.arange(size, device=DEVICE) % 9]
    for start in STARTS:
        request, found = _request(start, size), {}
        for used in (True, False):
            _with_kernels(monkeypatch, used=used)
            found[used] = by_score.ranking(score_L, request)
        assert torch.equal(found[True], found[False])


def test_no_class_at_all_is_no_launch() -> None:
    nothing = torch.zeros(0, device=DEVICE)

    assert len(triton_hash.ranking(nothing, 0, SEED, STEP)) == 0
    triton_hash.draw(nothing.bool(), 5, 0, SEED, STEP)


def test_kernels_are_for_cuda_alone() -> None:
    assert rule.hash_kernels(torch.device("cuda", 1)) is triton_hash
    assert rule.hash_kernels(torch.device("cpu")) is None
    # So the CPU keeps the form in torch.
    request = replace(_request(0, 100), labels=torch.tensor([5]), num_classes=100)
    index = SAMPLINGS["random_all"]()(request).rows.index
    assert index is not None
    drawn = class_hash(torch.arange(100), SEED, STEP) < (25 << 32) // 100
    assert torch.equal(index, drawn.nonzero().squeeze(1))


@pytest.mark.slow
def test_kernels_compile_once_for_each_architecture(tmp_path: Path) -> None:
    """In a separate process: one process either interprets kernels or compiles them."""
    environment = {key: os.environ[key] for key in os.environ if key != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    script = Path(__file__).with_name("compile_hash.py")
    result = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, check=False
    )

    assert result.returncode == 0, result.stderr
    names = ("draw_classes", "rank_classes")
    expected = [f"{name} {architecture}" for architecture in (80, 90) for name in names]
    assert sorted(result.stdout.splitlines()) == sorted(expected)
