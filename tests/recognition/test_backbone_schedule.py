"""The loop with a backbone that learns later or more slowly than its head."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from recognition.config_file import load_config
from recognition.distributed import World, current
from recognition.plan import BackboneSchedule, describe_plan, make_backbone_schedule, make_plan
from recognition.precision import Precision
from recognition.trainer import Trainer
from tests.distributed_harness import run_ranks
from tests.recognition.small_trainer import (
    CPU,
    STEPS,
    assert_equal,
    small_trainer,
    weights_before_each_step,
    weights_of,
)

FROZEN = 3


def trainer_of(
    folder: Path, *, frozen: int = FROZEN, factor: float = 1.0, late: bool = False, **options: Any
) -> Trainer:
    trainer = small_trainer(folder, late=late, **options)
    trainer.backbone_schedule = BackboneSchedule(factor, frozen)
    return trainer


def backbone_of(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the backbone's weights, its optimizer's state and their average."""
    return {n: t for n, t in weights.items() if not n.startswith("head")}


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("options", [{}, {"accumulation": 2, "ema": 0.9}])
def test_a_frozen_backbone_stays_to_the_bit_until_its_step(
    tmp_path: Path, late: bool, optimizer: str, options: dict[str, Any]
) -> None:
    trainer = trainer_of(tmp_path, late=late, optimizer=optimizer, **options)
    statistics = [buffer.clone() for buffer in trainer.backbone.buffers()]
    noted = weights_before_each_step(trainer)
    trainer.plan = replace_end(trainer, FROZEN)
    trainer.fit()
    for before, now in zip(statistics, trainer.backbone.buffers(), strict=True):
        assert torch.equal(before, now)
    trainer.plan = replace_end(trainer, STEPS)
    trainer.fit()
    for step in range(1, FROZEN + 1):
        assert_equal(backbone_of(noted[step]), backbone_of(noted[0]))
        assert not torch.equal(noted[step]["head.weight"], noted[step - 1]["head.weight"])
    moved = backbone_of(noted[FROZEN + 1])
    assert not torch.equal(moved["0.weight"], noted[FROZEN]["0.weight"])
    assert not torch.equal(trainer.backbone[1].running_mean, statistics[0])  # type: ignore[index]


def replace_end(trainer: Trainer, steps: int) -> Any:
    """Return the trainer's plan, ending after `steps` steps."""
    return type(trainer.plan)(1.0, steps, trainer.plan.verify_every, trainer.plan.save_every)


@pytest.mark.parametrize("saved", [FROZEN - 1, FROZEN, FROZEN + 1])
def test_resuming_before_at_and_after_the_end_of_freezing_changes_no_bit(
    tmp_path: Path, saved: int
) -> None:
    whole = trainer_of(tmp_path, save_every=1, factor=0.5)
    whole.fit()
    resumed = trainer_of(tmp_path, factor=0.5)
    resumed.restore(tmp_path / "checkpoints" / f"step_{saved:08d}")
    resumed.fit()
    assert_equal(weights_of(resumed), weights_of(whole))


@pytest.mark.parametrize("late", [False, True])
def test_a_factor_is_one_of_the_backbones_step_alone(tmp_path: Path, late: bool) -> None:
    def first_step(factor: float) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        trainer = trainer_of(tmp_path, frozen=0, factor=factor, late=late)
        noted = weights_before_each_step(trainer)
        trainer.fit()
        return noted[0], noted[1]

    start, whole = first_step(1.0)
    _, quarter = first_step(0.25)
    assert torch.equal(whole["head.weight"], quarter["head.weight"])
    change = whole["0.weight"] - start["0.weight"]
    torch.testing.assert_close(quarter["0.weight"] - start["0.weight"], change / 4)
    assert change.abs().max() > 1e-4


def test_an_overflow_in_fp16_is_skipped_without_any_gradient_of_the_backbone(
    tmp_path: Path,
) -> None:
    trainer = trainer_of(tmp_path)
    trainer.precision = Precision("fp16", CPU)
    trainer.scaler = trainer.precision.make_scaler()
    trainer.scaler.scale = 16.0  # without an overflow of its own
    trainer.flags._skip_overflow = True
    # Only the gradients overflow: a loss that is not finite would end the run.
    trainer.head.gradients_finite = partial(overflows_at, trainer, 1)  # type: ignore[method-assign]
    noted = weights_before_each_step(trainer)
    trainer.fit()
    assert trainer.scaler.skipped_steps == 1
    assert torch.equal(noted[1]["head.weight"], noted[2]["head.weight"])
    assert not torch.equal(noted[2]["head.weight"], noted[3]["head.weight"])
    assert_equal(backbone_of(noted[FROZEN]), backbone_of(noted[0]))
    assert not torch.equal(noted[FROZEN]["0.weight"], noted[FROZEN + 1]["0.weight"])


def overflows_at(trainer: Trainer, step: int) -> torch.Tensor:
    return torch.tensor(trainer.progress.step != step)


def trained_on_ranks(folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights of this rank at the end."""
    trainer = trainer_of(folder, world=current(), factor=0.5, accumulation=2)
    noted = weights_before_each_step(trainer)
    trainer.fit()
    assert_equal(backbone_of(noted[FROZEN]), backbone_of(noted[0]))
    final = weights_of(trainer)
    assert not torch.equal(final["0.weight"], noted[FROZEN]["0.weight"])
    return {name: final[name] for name in ("0.weight", "0.bias", "1.weight")}


@pytest.mark.slow
def test_ranks_thaw_together(tmp_path: Path) -> None:
    first, second = run_ranks(trained_on_ranks, 2, tmp_path)
    assert_equal(second, first)


def test_the_log_has_both_learning_rates_where_they_differ(tmp_path: Path) -> None:
    found: dict[str, list[float | None]] = {}
    for name, options in {"as head": {"frozen": 0}, "slower": {"factor": 0.5}}.items():
        trainer = trainer_of(tmp_path / name, log_every=1, **options)  # type: ignore[arg-type]
        rates = found.setdefault(name, [])
        trainer.telemetry.train = lambda _, values, *__, rates=rates: rates.append(  # type: ignore[method-assign]
            values.get("lr_backbone")
        )
        trainer.fit()
    assert found == {"as head": [None] * STEPS, "slower": [0.0] * FROZEN + [0.05] * FROZEN}


def test_a_config_says_how_the_backbone_learns(tiny_config: Path) -> None:
    config = load_config(
        tiny_config, ["backbone.freeze_until=7", "optimizer.backbone_lr_factor=0.1"]
    )
    plan = make_plan(config, 91)
    assert make_backbone_schedule(config, plan) == BackboneSchedule(0.1, 7)
    assert "0.1 times" in describe_plan(config, 91, World())["of the backbone"]
    by_stage = load_config(tiny_config, ["backbone.freeze_until=layer1"])
    assert make_backbone_schedule(by_stage, plan) == BackboneSchedule()
    endless = load_config(tiny_config, ["backbone.freeze_until=40"])
    with pytest.raises(ValueError, match=r"freeze_until at step 40 of 40"):
        make_backbone_schedule(endless, plan)


REFUSED: list[tuple[list[str], str]] = [
    (["backbone.freeze_until=0"], "freeze_until"),
    (["optimizer.backbone_lr_factor=0"], "backbone_lr_factor"),
    (["head.init=class_means"], "init_from is null"),
    (["head.init=class_means", "head.init_from=x", "init_from=y"], "init_from is x"),
]


@pytest.mark.parametrize(("settings", "words"), REFUSED)
def test_settings_that_make_no_sense_are_refused(
    tiny_config: Path, settings: list[str], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        load_config(tiny_config, settings)
