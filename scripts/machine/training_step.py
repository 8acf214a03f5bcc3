"""The trainer's own steps, on batches that are made here, for as many steps as are asked for."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from data.build import build_prepare
from data.loading.loader import Batch
from recognition.build import build_network, build_trainer, run_identity
from recognition.checkpoint import Checkpoints
from recognition.config import Config
from recognition.config_file import load_config
from recognition.distributed import World, part_range
from recognition.failure import StopSignals
from recognition.plan import make_plan
from recognition.telemetry import Telemetry
from scripts.benchmarks.common.machine import ROOT

MANY = 1_000_000  # steps: none of these runs reaches its end

Around = Callable[[], AbstractContextManager[Any]]


class _EnoughError(Exception):
    """Ends `Trainer.fit` after the steps that were asked for."""


class TrainingSteps:
    """Steps of `Trainer`, as `train.py` makes them of configs/demo.yaml with `overrides`.

    Args:
        device: that of the run.
        folder: its run folder, which gets the first batch for TensorBoard.
        overrides: settings as of `--set`.
        classes: of the head.
        batches: endless micro-batches; by default one, random, on the host as the loader has it.
        channels_last: whether backbone and images are, as in `train.py`.
    """

    def __init__(
        self,
        device: torch.device,
        folder: Path,
        overrides: Sequence[str],
        *,
        classes: int,
        batches: Iterator[Batch] | None = None,
        channels_last: bool = True,
    ) -> None:
        never = ["train.epochs=null", f"train.steps={MANY}", f"log.every_steps={MANY}"]
        never += ["verification.every_epochs=null", "checkpoint.every_epochs=null"]
        config = load_config(ROOT / "configs" / "demo.yaml", [*never, *overrides])
        self.device, self.images_per_step = device, config.train.global_batch_size
        self._source = _Source(config, device, classes, batches)
        prepare = build_prepare(config, device)

        def contiguous(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
            images, labels = prepare(batch)
            return images.contiguous(), labels

        backbone = build_network(config).to(device)
        if channels_last:
            backbone = backbone.to(memory_format=torch.channels_last)
        world, plan = World(), make_plan(config, MANY)
        self._trainer = build_trainer(
            config, plan, world=world, device=device, backbone=backbone, source=self._source,
            prepare=prepare if channels_last else contiguous, verify=lambda embed: [],
            checkpoints=Checkpoints(folder, world=world, keep=1),
            telemetry=Telemetry(folder, world=world, total_steps=plan.total_steps),
            signals=StopSignals(world), identity=run_identity(config, "", classes, MANY),
        )  # fmt: skip

    def run(self, steps: int, around: Around | None = None) -> Any:
        """Take steps; return what `around()` yields, which holds them as a context manager."""
        self._source.steps, self._source.around = steps, around
        try:
            self._trainer.fit()
        except _EnoughError:
            return self._source.result
        raise AssertionError("the source ends every run")

    def seconds_per_step(self, steps: int) -> float:
        """Take steps, and return the time of each, the GPU's included."""
        self._synchronize()
        started = time.perf_counter()
        self.run(steps)
        self._synchronize()
        return (time.perf_counter() - started) / steps

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class _Source:
    """The trainer's source of batches, which ends it after `steps` and holds them in `around`."""

    def __init__(
        self, config: Config, device: torch.device, classes: int, batches: Iterator[Batch] | None
    ) -> None:
        self._accumulation, self._batches = config.train.accumulation, batches
        start, stop = part_range(config.train.global_batch_size, self._accumulation, 0)
        if batches is None:
            self._own = random_batch(stop - start, config.data.image_size, classes)
            if device.type == "cuda":
                self._own = replace(
                    self._own, images=self._own.images.pin_memory(),
                    labels=self._own.labels.pin_memory(),
                )  # fmt: skip
        self.steps, self.around, self.result = 0, None, None  # type: int, Around | None, Any

    def batches(self, first_step: int, last_step: int) -> Iterator[Batch]:
        """See `BatchSource`; `around` begins when the first step has asked for its batch."""
        with ExitStack() as stack:
            for step in range(self.steps):
                if step == 0 and self.around is not None:
                    self.result = stack.enter_context(self.around())
                for _ in range(self._accumulation):
                    yield self._own if self._batches is None else next(self._batches)
        raise _EnoughError

    def hint(self) -> str:
        """See `BatchSource`."""
        return ""

    def report(self, step: int) -> dict[str, float]:
        """See `BatchSource`."""
        return {}

    def state(self) -> dict[str, Any]:
        """See `BatchSource`."""
        return {}

    def restore(self, state: object) -> None:
        """See `BatchSource`."""


def random_batch(count: int, side: int, classes: int) -> Batch:
    """Return a batch of random pixels, as the loader delivers them."""
    pixels = torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8)
    return Batch(
        images=pixels.permute(0, 3, 1, 2),
        labels=torch.randint(0, classes, (count,)),
        indices=torch.arange(count),
        epochs=torch.zeros(count, dtype=torch.int64),
    )
