"""The average of the weights in training: `train.ema`."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from recognition.distributed import current, gather
from recognition.trainer import Trainer
from tests.distributed_harness import run_ranks
from tests.recognition.small_trainer import (
    STEPS,
    assert_equal,
    small_trainer,
    weights_before_each_step,
    weights_of,
)

SAVED = 3


@pytest.mark.parametrize("late", [False, True])
def test_an_average_resumes_to_the_bit_and_follows_only_finite_steps(
    tmp_path: Path, late: bool
) -> None:
    make = partial(small_trainer, tmp_path, late=late, ema=0.3, save_every=SAVED)
    whole = make()
    noted = weights_before_each_step(whole)
    whole.fit()
    assert_equal(averages(make()), average_of(noted[:1]))
    assert_equal(averages(whole), average_of([*noted, weights_of(whole)]))

    resumed = make()
    resumed.restore(tmp_path / "checkpoints" / f"step_{SAVED:08d}")
    resumed.fit()
    assert_equal(weights_of(resumed), weights_of(whole))

    skipping = make()
    agree = skipping.flags.agree
    skipping.flags.agree = lambda *arguments: agree(*arguments) if skipping.progress.step else True  # type: ignore[method-assign]
    noted = weights_before_each_step(skipping)
    skipping.fit()
    assert_equal(noted[1], noted[0])


def average_of(states: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Return the average with decay 0.3 of the parameters after each step, by the definition."""
    found = {name: states[0][name] for name in states[0] if f"average.{name}" in states[0]}
    for t, state in enumerate(states[1:]):
        found = {
            name: torch.lerp(own, state[name], 1 - min(0.3, (1 + t) / (10 + t)))
            for name, own in found.items()
        }
    return found


def averages(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Return the averaged parameters by name."""
    assert trainer.average is not None
    return dict(trainer.average.network.named_parameters())


def average_on_two_ranks(folder: Path) -> None:
    """Check that a run resumes to the bit, and that both ranks end with the same average."""
    make = partial(small_trainer, folder, late=False, world=current(), ema=0.9, save_every=SAVED)
    whole = make()
    whole.fit()
    resumed = make()
    resumed.restore(folder / "checkpoints" / f"step_{SAVED:08d}")
    resumed.fit()
    assert_equal(weights_of(resumed), weights_of(whole))
    first, second = gather(dict(whole._state().average))  # with the statistics of batch norm
    assert_equal(first, second)


@pytest.mark.slow
def test_ranks_have_one_average(tmp_path: Path) -> None:
    run_ranks(average_on_two_ranks, 2, tmp_path)


def test_a_run_without_an_average_and_one_with_it_resume_each_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain = small_trainer(tmp_path / "plain", late=False, save_every=SAVED)
    plain.fit()
    folder = tmp_path / "plain" / "checkpoints" / f"step_{SAVED:08d}"
    averaging = small_trainer(tmp_path / "averaging", late=False, ema=0.5, save_every=SAVED)
    averaging.restore(folder)
    assert [record.args for record in caplog.records if record.levelname == "WARNING"] == [
        (folder, "backbone_ema.pt")
    ]
    state = averaging._state()
    assert_equal(dict(state.average), dict(state.backbone))
    averaging.fit()

    caplog.clear()
    folder = tmp_path / "averaging" / "checkpoints" / f"step_{STEPS:08d}"
    assert (folder / "backbone_ema.pt").exists()
    plain.restore(folder)
    assert [record.args for record in caplog.records if record.levelname == "WARNING"] == [
        (folder, "backbone_ema.pt")
    ]


def test_the_average_is_verified_next_to_the_weights(tmp_path: Path) -> None:
    inputs, seen = torch.randn(4, 5), []

    def verify(embed: Callable[[torch.Tensor], torch.Tensor]) -> list[Any]:
        seen.append(embed(inputs))
        return []

    trainer = small_trainer(tmp_path, late=False, ema=0.9, verify=verify)
    trainer.fit()
    assert trainer.average is not None
    raw, averaged = seen
    trainer.backbone.eval()
    assert torch.equal(raw, trainer.backbone(inputs))
    assert torch.equal(averaged, trainer.average.network(inputs))
    assert not torch.equal(raw, averaged)
