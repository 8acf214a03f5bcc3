from pathlib import Path
from typing import Any

import pytest
import torch

from recognition import build
from recognition.build import build_head, describe_model, load_initial_weights
from recognition.config_file import config_values, load_config
from recognition.distributed import World
from recognition.optimizer import reads_skip
from recognition.plan import Plan

PLAN = Plan(1.0, 40, 40, 40)


@pytest.mark.parametrize("name", ["typo.pt", "runs/typo", "x" * 300])
def test_initial_weights_that_do_not_exist_are_called_that(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=rf"init_from.*{name} does not exist"):
        load_initial_weights(torch.nn.Linear(1, 1), tmp_path / name)


def test_initial_weights_may_be_those_of_a_wrapped_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    saved, loaded = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
    weights = {f"module.{name}": value for name, value in saved.state_dict().items()}
    torch.save({"model": weights}, tmp_path / "w.pt")
    load_initial_weights(loaded, tmp_path / "w.pt")
    assert torch.equal(loaded.weight, saved.weight)


def test_the_heads_precision_is_chosen_by_device_and_kept_as_written(
    tiny_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu = torch.device("cpu")
    config = load_config(tiny_config)
    assert "matmul_dtype=torch.float32" in repr(build_head(config, 13, cpu, PLAN))
    assert config_values(config)["head"]["precision"] == "auto"
    bf16 = load_config(tiny_config, ["head.precision=bf16"])
    assert "matmul_dtype=torch.bfloat16" in repr(build_head(bf16, 13, cpu, PLAN))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    for device, expected in ((cpu, "fp32"), (torch.device("cuda"), "bf16")):
        assert f" {expected}," in describe_model(config, 13, World(), device)["head"]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_only_a_gpu_gets_the_fused_optimizer(
    tiny_config: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    made: dict[str, Any] = {}
    monkeypatch.setattr(build, "Trainer", lambda **parts: made.update(parts))
    monkeypatch.setattr(build, "build_head", lambda *_: None)
    none: Any = None
    build.build_trainer(
        load_config(tiny_config), PLAN, world=World(), device=torch.device(device),
        backbone=torch.nn.Linear(1, 1), source=none, prepare=none, verify=none, checkpoints=none,
        telemetry=none, signals=none, identity={"classes": 13},
    )  # fmt: skip
    assert reads_skip(made["optimizer"]) == (device == "cuda")
