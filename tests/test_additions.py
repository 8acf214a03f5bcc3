"""A loss and a backbone from outside, added as docs/architecture.md says: one entry each."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from recognition.config_file import ConfigError, load_config
from recognition.head import PartialFC
from recognition.head.losses.base import LossInputs, MarginSoftmax
from recognition.head.losses.build import LOSSES, build_loss
from tests.launch import ROOT

# What a user writes: a script beside their data, which changes no file of the project.
SCRIPT = """
from torch import nn
from backbones.build import BACKBONES
from recognition.head.losses.build import LOSSES
from tests.test_additions import quadratic
from train import main

class Linear(nn.Sequential):
    def __init__(self, *, embedding_size, dropout, image_size, activation_checkpointing):
        super().__init__(nn.Flatten(), nn.Linear(3 * image_size**2, embedding_size))

LOSSES["quadratic"] = quadratic
BACKBONES["linear"] = Linear
main()
"""


@dataclass(frozen=True)
class Quadratic(MarginSoftmax):
    m: float

    def margin(self, inputs: LossInputs) -> Tensor:
        return inputs.target_cosine - self.m * inputs.target_cosine.square()


def quadratic(m: float = 0.1) -> MarginSoftmax:
    return Quadratic(m)


@pytest.mark.slow
def test_a_script_trains_with_a_loss_and_a_backbone_of_its_own(
    tiny_config: Path, tmp_path: Path
) -> None:
    script = tmp_path / "mine.py"
    script.write_text(SCRIPT)
    settings = ["backbone.name=linear", "head.loss={name: quadratic, m: 0.2}"]
    settings += ["train.steps=3", "verification.sets=[]"]
    options = [option for setting in settings for option in ("--set", setting)]
    ended = subprocess.run(
        [sys.executable, str(script), "--config", str(tiny_config), *options],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-3000:]
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert len({line["loss"] for line in lines}) == 3
    backbone = torch.load(tmp_path / "run/checkpoints/step_00000003/backbone.pt")
    assert {name: tuple(tensor.shape) for name, tensor in backbone.items()} == {
        "1.weight": (16, 3 * 32**2), "1.bias": (16,),
    }  # fmt: skip


def test_an_added_loss_is_computed_and_its_options_are_checked(
    tiny_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LOSSES, "quadratic", quadratic)
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(6, 8, generator=generator), torch.tensor([0, 4, 2, 2, 1, 3])
    head = PartialFC(8, 5, loss=build_loss("quadratic", m=0.3), scale=8.0)
    cosine = F.normalize(x.double()) @ F.normalize(head.weight.double()).T
    target = F.one_hot(y, 5).bool()
    dense = F.cross_entropy(8 * torch.where(target, cosine - 0.3 * cosine.square(), cosine), y)
    assert torch.allclose(head(x, y).loss.double(), dense, rtol=1e-6)
    with pytest.raises(ConfigError, match=r"quadratic.*margin.*m"):
        load_config(tiny_config, ["head.loss={name: quadratic, margin: 0.3}"])
