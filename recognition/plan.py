"""The plan of a run: how many steps, at what learning rate, and when to verify and save.

Everything here is a pure function of the config and the number of images, so a resumed run, on
any number of ranks, follows the same plan, and `--dry-run` can print it.
"""

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass

from recognition.config import Config, Head, Schedule
from recognition.distributed import World


@dataclass(frozen=True)
class LearningRateSchedule:
    """The learning rate of every step."""

    base_lr: float  # after the warm-up
    total_steps: int  # of the whole run
    warmup_steps: int  # step `s` of them runs at `base_lr * (s + 1) / warmup_steps`
    decay: Callable[[int], float]  # factor of `base_lr` at a step after the warm-up

    def lr_at(self, step: int) -> float:
        """Return the learning rate of step `step` (the first is 0).

        Raises `ValueError` for a step outside the run.
        """
        if not 0 <= step < self.total_steps:
            raise ValueError(f"step {step} is outside the run's {self.total_steps} steps")
        if step < self.warmup_steps:
            return self.base_lr * (step + 1) / self.warmup_steps
        return self.base_lr * self.decay(step)


@dataclass(frozen=True)
class BackboneSchedule:
    """How the backbone learns where it differs from the head, which has the run's schedule."""

    lr_factor: float = 1.0  # of the schedule's learning rate
    frozen_steps: int = 0  # first steps, in which the backbone stays as it is

    def is_frozen_at(self, step: int) -> bool:
        """Return whether step `step` (the first is 0) leaves the backbone as it is."""
        return step < self.frozen_steps

    def figures(self, step: int, lr: float) -> dict[str, float]:
        """Return the backbone's learning rate in a step, for the log, unless it is `lr` in all."""
        if self == BackboneSchedule():
            return {}
        return {"lr_backbone": 0.0 if self.is_frozen_at(step) else lr * self.lr_factor}


@dataclass(frozen=True)
class SampleRateSchedule:
    """The head's sample rate of every step: call it with the number of the step, from 0."""

    rates: tuple[float, ...]
    milestones: tuple[int, ...]  # ascending; rate i + 1 begins at step `milestones[i]`

    def __call__(self, step: int) -> float:
        """Return the sample rate of step `step`."""
        return self.rates[bisect_right(self.milestones, step)]


@dataclass(frozen=True)
class Plan:
    """When things happen, in steps.

    The model is verified, and a checkpoint saved, at the multiples of their intervals and after the
    last step. A multiple is left out if the last step follows within a tenth of the interval: with
    `save_every` 333 and 1000 steps, checkpoints are saved at 333, 666 and 1000, not at 999. So at
    most 1.1 intervals lie between two of them.
    """

    steps_per_epoch: float  # not an integer in general: a batch may span two epochs
    total_steps: int  # of the whole run
    verify_every: int  # steps between verifications
    save_every: int  # steps between checkpoints

    def verify_after(self, step: int) -> bool:
        """Return whether to verify the model after `step` steps."""
        return self._is_due(step, self.verify_every)

    def save_after(self, step: int) -> bool:
        """Return whether to write a checkpoint after `step` steps."""
        return self._is_due(step, self.save_every)

    def _is_due(self, step: int, interval: int) -> bool:
        left = self.total_steps - step
        return left == 0 or (step % interval == 0 and left > interval // 10)


def make_plan(config: Config, num_images: int) -> Plan:
    """Return the plan of a run over `num_images` images.

    Raises `ValueError` when the run would be shorter than one step.
    """
    per_epoch = num_images / config.train.global_batch_size

    def steps(count: int | None, epochs: float | None, default: int) -> int:
        if epochs is not None:
            return max(1, round(epochs * per_epoch))
        return default if count is None else count

    if config.train.steps is not None:
        total = config.train.steps
    else:
        assert config.train.epochs is not None, "the config states epochs or steps"
        total = math.floor(config.train.epochs * per_epoch)
    if total < 1:
        raise ValueError(
            f"train.epochs {config.train.epochs} of {num_images} images are less than one step of "
            f"train.global_batch_size {config.train.global_batch_size}: lower the batch size"
        )
    verification, checkpoint = config.verification, config.checkpoint
    return Plan(
        steps_per_epoch=per_epoch,
        total_steps=total,
        verify_every=steps(verification.every_steps, verification.every_epochs, total),
        save_every=steps(checkpoint.every_steps, checkpoint.every_epochs, total),
    )


def make_schedule(config: Schedule, base_lr: float, plan: Plan) -> LearningRateSchedule:
    """Return the learning-rate schedule of a run.

    Raises `ValueError` when the warm-up or a milestone is beyond the run's end.
    """
    warmup = config.warmup_steps or round((config.warmup_epochs or 0.0) * plan.steps_per_epoch)
    milestones = _in_steps(config.milestone_steps, config.milestone_epochs, plan)
    _check_within(plan, "schedule: warm-up", [warmup])
    _check_within(plan, "schedule: milestone", milestones)
    decays: dict[str, Callable[[int], float]] = {
        "polynomial": lambda step: (
            (1 - (step - warmup) / (plan.total_steps - warmup)) ** config.power
        ),
        "step": lambda step: config.gamma ** sum(step >= milestone for milestone in milestones),
    }
    return LearningRateSchedule(base_lr, plan.total_steps, warmup, decays[config.name])


def make_backbone_schedule(config: Config, plan: Plan) -> BackboneSchedule:
    """Return how the backbone learns. Raises `ValueError` when it is frozen for the whole run."""
    until = config.backbone.freeze_until
    steps = until if isinstance(until, int) else 0
    _check_within(plan, "backbone.freeze_until", [steps])
    return BackboneSchedule(config.optimizer.backbone_lr_factor, steps)


def make_sample_rate(config: Head, plan: Plan) -> SampleRateSchedule | None:
    """Return the head's sample rate of every step; None where the config states none.

    Raises `ValueError` when a rate begins beyond the run's end, or at the same step as another.
    """
    if config.sample_rate is None:
        return None
    rates = config.sample_rate if isinstance(config.sample_rate, list) else [config.sample_rate]
    milestones = _in_steps(config.sample_rate_steps, config.sample_rate_epochs, plan)
    _check_within(plan, "head: next sample rate", milestones)
    if len({0, *milestones}) < len(rates):
        raise ValueError(
            f"head: sample_rate_epochs {config.sample_rate_epochs} are the steps {milestones} of "
            f"{plan.steps_per_epoch:g} per epoch: expected every rate for a step or more; move "
            "them apart, or state sample_rate_steps"
        )
    return SampleRateSchedule(tuple(rates), tuple(milestones))


def _in_steps(steps: list[int] | None, epochs: list[float] | None, plan: Plan) -> list[int]:
    """Return milestones in steps, of which the config has a list of either kind or none."""
    return steps or [round(epoch * plan.steps_per_epoch) for epoch in epochs or []]


def _check_within(plan: Plan, name: str, steps: list[int]) -> None:
    """Raise `ValueError` for a step that the run does not reach."""
    for step in steps:
        if step >= plan.total_steps and step > 0:
            raise ValueError(
                f"{name} at step {step} of {plan.total_steps}: expected it before the end; train "
                "longer, or move it"
            )


def check_batch(config: Config, world: World) -> None:
    """Raise `ValueError` when some rank would get too few images of a micro-batch to train on."""
    train = config.train
    smallest = train.global_batch_size // train.accumulation // world.size
    needed = 1 if config.backbone.frozen_batch_norm else 2
    if smallest < needed:
        raise ValueError(
            f"train.global_batch_size {train.global_batch_size} in {train.accumulation} "
            f"micro-batch(es) over {world.size} ranks leaves {smallest} image(s) per rank: "
            f"batch norm needs at least {needed}; raise the batch size, lower "
            "train.accumulation, or start fewer ranks"
        )


def describe_plan(config: Config, num_images: int, world: World) -> dict[str, str]:
    """Return the plan of a run in words, for `--dry-run`. Raises as `make_plan`."""
    plan = make_plan(config, num_images)
    schedule = make_schedule(config.schedule, config.optimizer.lr, plan)
    train, sets = config.train, config.verification.sets
    batch = train.global_batch_size // train.accumulation
    shown = sorted({0, schedule.warmup_steps, *(plan.total_steps * i // 10 for i in range(10))})
    rates = [f"{schedule.lr_at(step):.4g} at step {step:,}" for step in shown]
    own = make_backbone_schedule(config, plan)
    backbone = [f"{own.lr_factor:g} times as high"] if own.lr_factor != 1 else []
    backbone += [f"frozen for the first {own.frozen_steps:,} steps"] if own.frozen_steps else []
    sampling = make_sample_rate(config.head, plan)
    steps = () if sampling is None else (0, *sampling.milestones)
    fractions = [f"{sampling(step):g} from step {step:,} on" for step in steps if sampling]
    return {
        "steps": f"{plan.total_steps:,} ({plan.steps_per_epoch:,.1f} per epoch)",
        "batch": f"{train.global_batch_size} images per step: {train.accumulation} "
        f"micro-batch(es) of {batch}, {-(-batch // world.size)} per rank",
        "verification": f"every {plan.verify_every:,} steps and at the end: "
        f"{', '.join(sets) or 'no sets'}",
        "checkpoints": f"every {plan.save_every:,} steps and at the end",
        "learning rate": ", ".join(rates),
        **({"of the backbone": ", ".join(backbone)} if backbone else {}),
        **({"sample rate": ", ".join(fractions)} if fractions else {}),
    }
