"""A trainer of a linear network on random vectors, for tests of the loop itself."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backbones import WeightAverage
from recognition.checkpoint import Checkpoints
from recognition.distributed import World
from recognition.failure import StopSignals
from recognition.head import PartialFC, RowOptimizer, SeparateHeads
from recognition.optimizer import make_optimizer
from recognition.plan import LearningRateSchedule, Plan
from recognition.precision import Precision
from recognition.telemetry import Meter, Telemetry
from recognition.trainer import Trainer, Verify

CLASSES, BATCH, STEPS = 11, 12, 6
OPTIONS: dict[str, dict[str, Any]] = {
    "sgd": {"momentum": 0.9, "weight_decay": 0.001},
    "adamw": {"weight_decay": 0.1},
}
CPU = torch.device("cpu")


class Vectors:
    """Batches that are a function of step and rank; from step `bad` on, NaN on rank `bad_rank`."""

    def __init__(self, world: World, bad: int | None, bad_rank: int, accumulation: int) -> None:
        self.world, self.bad, self.bad_rank = world, bad, bad_rank
        self.accumulation = accumulation

    def batches(self, first_step: int, last_step: int) -> Iterator[tuple[Tensor, Tensor]]:
        for step in range(first_step, last_step):
            generator = torch.Generator().manual_seed(step)
            inputs = torch.randn(BATCH, 5, generator=generator)
            labels = torch.randint(CLASSES, (BATCH,), generator=generator)
            part = slice(self.world.rank, None, self.world.size)
            inputs, labels = inputs[part].clone(), labels[part]
            if step == self.bad and self.world.rank == self.bad_rank:
                inputs[0, 0] = torch.nan
            yield from zip(
                inputs.chunk(self.accumulation), labels.chunk(self.accumulation), strict=True
            )

    def hint(self) -> str:
        return ""

    def report(self, step: int) -> Mapping[str, float]:
        return {}

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        pass


def small_trainer(
    folder: Path,
    *,
    late: bool,
    world: World = World(),  # noqa: B008 (frozen)
    optimizer: str = "sgd",
    row_optimizer: RowOptimizer | None = None,
    heads: Mapping[str, int] | None = None,
    bad: int | None = None,
    bad_rank: int = 0,
    log_every: int = 100,
    save_every: int = 100,
    sampling: str = "all",
    accumulation: int = 1,
    compile_backbone: bool = False,
    ema: float | None = None,
    best_figure: str | None = None,
    verify: Verify = lambda embed: [],
    backbone: Callable[[], nn.Module] = lambda: nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7)),
) -> Trainer:
    """Return a trainer of `STEPS` steps; `late` takes a fused optimizer, as a GPU does.

    `heads` are the classes of several, by name.
    """
    torch.manual_seed(0)
    network = backbone()
    make_head = partial(PartialFC, 7, sampling=sampling, scale=8.0, optimizer=row_optimizer)
    head = (
        make_head(CLASSES)
        if heads is None
        else SeparateHeads({name: make_head(classes) for name, classes in heads.items()})
    )
    return Trainer(
        world=world,
        device=CPU,
        backbone=network,
        head=head,
        optimizer=make_optimizer(optimizer, network, fused=late, lr=0.1, **OPTIONS[optimizer]),
        schedule=LearningRateSchedule(0.1, STEPS, 0, lambda step: 1.0),
        plan=Plan(1.0, STEPS, verify_every=100, save_every=save_every),
        source=Vectors(world, bad, bad_rank, accumulation),
        prepare=lambda batch: batch,
        verify=verify,
        precision=Precision("fp32", CPU),
        checkpoints=Checkpoints(folder, world=world, keep=99),
        telemetry=Telemetry(folder, world=World(1, 2), total_steps=STEPS),  # writes nothing
        signals=StopSignals(world),
        global_batch_size=BATCH,
        accumulation=accumulation,
        clip_norm=5.0,
        log_every=log_every,
        histograms_every=1,
        seed=0,
        compile_backbone=compile_backbone,
        identity={},
        metadata={},
        average=None if ema is None else WeightAverage(network, ema),
        best_figure=best_figure,
    )


def weights_of(trainer: Trainer) -> dict[str, Tensor]:
    """Return copies of all that a step may change only if it is finite, by name."""
    state = trainer._state()
    tensors = dict(state.replicated) | {
        name: rows.local.read(0, rows.local.shape[0]) for name, rows in state.rows.items()
    }
    tensors |= dict(trainer.backbone.named_parameters())
    tensors |= {f"average.{name}": tensor for name, tensor in state.average.items()}
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def weights_before_each_step(trainer: Trainer) -> list[dict[str, torch.Tensor]]:
    """Have the trainer note all weights before each of its steps."""
    noted, step = [], trainer._step

    def noting(batches: Any, meter: Meter) -> None:
        noted.append(weights_of(trainer))
        step(batches, meter)

    trainer._step = noting  # type: ignore[method-assign]
    return noted


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
