"""Every shipped config loads, and the recipes carry the published values."""

from pathlib import Path

import pytest
import torch

from backbones import BACKBONES
from recognition.build import describe_model
from recognition.config import Config
from recognition.config_file import load_config
from recognition.distributed import World
from recognition.head import arcface, cosface

CONFIGS = Path(__file__).parents[2] / "configs"
# Lists of runs: see tests/scripts/comparison/test_compare_heads.py
OTHER_KINDS = {"compare", "demo_seeds"}
SHIPPED = sorted({path.stem for path in CONFIGS.glob("*.yaml")} - OTHER_KINDS)
COUNTS = {
    "casia": (10_572, 490_623),
    "ms1mv2": (85_742, 5_822_653),
    "ms1mv3": (93_431, 5_179_510),
    "glint360k": (360_232, 17_091_657),
}
RECIPES = [
    f"{data}_{net}{head}" for data in COUNTS for net in ("r50", "r100") for head in ("", "_pfc")
]


def load(name: str) -> Config:
    return load_config(CONFIGS / f"{name}.yaml")


def test_every_data_set_comes_with_both_networks_and_both_heads() -> None:
    assert set(RECIPES) | {"demo"} <= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_loads_and_writes_to_a_folder_of_its_own_name(name: str) -> None:
    config = load(name)
    assert config.output == Path("runs", name)
    assert config.backbone.name in BACKBONES
    assert (CONFIGS / f"{name}.yaml").read_text().count("\n") <= 20


def test_ten_million_identities_take_ten_gigabytes() -> None:
    config = load("ten_million")
    synthetic = config.data.synthetic
    assert synthetic is not None
    line = describe_model(config, synthetic.identities, World(), torch.device("cpu"))["head"]
    assert "10,000,000 of 10,000,000" in line
    assert "1,032 bytes per class" in line


@pytest.mark.parametrize("name", RECIPES)
def test_recipe(name: str) -> None:
    data, network, *head = name.split("_")
    config = load(name)
    assert (config.data.num_classes, config.data.num_images) == COUNTS[data]
    assert (config.backbone.name, config.backbone.embedding_size) == (network, 512)
    assert config.head.scale == 64
    expected_head = ("random_negative", 0.1) if head else ("all", None)
    assert (config.head.sampling, config.head.sample_rate) == expected_head
    assert (config.optimizer.lr, config.optimizer.momentum) == (0.1, 0.9)
    assert config.optimizer.weight_decay == (1e-4 if data == "glint360k" else 5e-4)
    arc = arcface(0.5, detached=data.startswith("ms1m"))
    assert config.head.loss.build() == (cosface(0.4) if data == "glint360k" else arc)


@pytest.mark.parametrize("name", RECIPES)
def test_length(name: str) -> None:
    config = load(name)
    train, schedule = config.train, config.schedule
    if name.startswith("casia"):
        assert (train.global_batch_size, train.steps, train.epochs) == (512, 32_000, None)
        assert (schedule.name, schedule.gamma) == ("step", 0.1)
        assert schedule.milestone_steps == [20_000, 28_000]
    else:
        assert (train.global_batch_size, train.steps, train.epochs) == (1024, None, 20)
        assert (schedule.name, schedule.power) == ("polynomial", 1)
    assert not schedule.warmup_steps
    assert not schedule.warmup_epochs
