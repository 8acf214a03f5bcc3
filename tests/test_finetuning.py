"""Fine-tuning by the whole command: class means, a frozen stage, and a run that resumes."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from backbones import build_backbone
from tests.launch import train_well

pytestmark = pytest.mark.slow


def weights_at(run: Path, step: int) -> dict[str, Tensor]:
    file = run / "checkpoints" / f"step_{step:08d}" / "backbone.pt"
    found: dict[str, Tensor] = torch.load(file, weights_only=True)
    return found


def test_a_frozen_stage_stays_as_loaded_and_a_run_that_resumes_goes_on(
    tiny_config: Path, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    start = build_backbone("rtiny", embedding_size=16, image_size=32).state_dict()
    torch.save(start, tmp_path / "start.pt")
    settings = [
        f"init_from={tmp_path / 'start.pt'}", "head.init=class_means", "train.steps=4",
        "backbone.freeze_until=layer1", "optimizer.backbone_lr_factor=0.5",
        "checkpoint.every_steps=1",
    ]  # fmt: skip
    command = ["--config", str(tiny_config), *(w for text in settings for w in ("--set", text))]
    train_well(command)
    run, resumed = tmp_path / "run", tmp_path / "resumed"
    final = weights_at(run, 4)
    for name, weight in start.items():
        is_frozen = name.startswith(("stem.", "blocks.0."))
        if is_frozen or name != "features.weight":
            assert torch.equal(final[name], weight) == is_frozen, name

    checkpoint = str(run / "checkpoints" / "step_00000002")
    train_well([*command, "--output", str(resumed), "--resume", checkpoint])
    for name, weight in weights_at(resumed, 4).items():
        assert torch.equal(weight, final[name]), name
    line = "class centres of 13 of 13 classes"
    assert line in (run / "log.txt").read_text()
    assert line not in (resumed / "log.txt").read_text()
