"""The sections `backbone`, `optimizer`, `schedule` and `train`."""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from backbones.build import BACKBONES
from recognition.config.base import (
    Count,
    CountOrZero,
    Epochs,
    EpochsOrZero,
    Factor,
    Range,
    Seconds,
    Section,
)
from recognition.head.choices import choose

StageName = Annotated[str, Field(min_length=1)]


class Backbone(Section):
    """The network from images to embeddings."""

    name: str = "r50"
    """`r18`, `r34`, `r50`, `r100`, `r200`, `mbf` (MobileFaceNet), `rtiny` (small, for CPUs), or one
    of your own."""
    embedding_size: Count = 512
    """Numbers of an embedding."""
    dropout: Factor = 0.0
    """Probability of zeroing an element of the last feature map in training."""
    activation_checkpointing: bool = False
    """Compute activations twice, to keep fewer: less memory, more time, the same result."""
    frozen_batch_norm: bool = False
    """Keep batch norm's running statistics as they are, and normalise with them in training."""
    freeze_until: Count | StageName | None = None
    """What stays as it is loaded, batch norm's statistics included. A stage: it and all before it,
    in the whole run; `stem`, `layer1` to `layer4`, and to `layer3` in `mbf` and `rtiny`. A number:
    the whole network in that many first steps, in which the head alone learns. See
    [finetuning.md](finetuning.md)."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        choose(BACKBONES, self.name, "name")
        return self


class Optimizer(Section):
    """SGD or AdamW for the backbone and, row by row, for the class centres."""

    name: Literal["sgd", "adamw"] = "sgd"
    """The rule."""
    lr: PositiveFloat = 0.1
    """Learning rate after the warm-up, for `train.global_batch_size`; it is never rescaled."""
    backbone_lr_factor: PositiveFloat = 1.0
    """Factor of the learning rate for the backbone; the class centres have that of the schedule."""
    momentum: Factor = 0.9
    """Momentum of SGD."""
    nesterov: bool = False
    """Nesterov's momentum, for SGD."""
    betas: Range[Factor] = (0.9, 0.999)
    """Decay of AdamW's two running means."""
    weight_decay: NonNegativeFloat = 5e-4
    """Weight decay of backbone and class centres."""
    clip_norm: PositiveFloat | None = 5.0
    """Largest norm of the backbone's gradient, not the head's, as in the published recipes; null
    does not clip."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.nesterov and (self.name != "sgd" or self.momentum == 0):
            raise ValueError(
                f"nesterov is true with name {self.name} and momentum {self.momentum}: it needs "
                "sgd with a momentum above 0"
            )
        return self


class Schedule(Section):
    """The learning rate over the run. State a length in steps or in epochs, not in both."""

    name: Literal["polynomial", "step"] = "polynomial"
    """`polynomial`: falls to 0 at the end of the run. `step`: is multiplied by `gamma` at each
    milestone, of which it needs at least one."""
    power: PositiveFloat = 1.0
    """Exponent of `polynomial`; 1 is linear."""
    gamma: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Factor of `step`."""
    milestone_steps: list[Count] | None = None
    """Milestones of `step`, ascending."""
    milestone_epochs: list[Epochs] | None = None
    """The same in epochs."""
    warmup_steps: CountOrZero | None = None
    """Steps over which the learning rate rises linearly to `optimizer.lr`."""
    warmup_epochs: EpochsOrZero | None = None
    """The same in epochs."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        self._at_most_one("warmup_steps", "warmup_epochs")
        self._at_most_one("milestone_steps", "milestone_epochs")
        milestones = self.milestone_steps or self.milestone_epochs
        if (self.name == "step") != bool(milestones):
            raise ValueError(
                f"name is {self.name} and milestones are {milestones}: only the step schedule has "
                "milestone_steps or milestone_epochs, and it needs one of them"
            )
        if milestones and sorted(set(milestones)) != list(milestones):
            raise ValueError(f"milestones are {milestones}: state them in ascending order")
        return self


class Train(Section):
    """Length and arithmetic of training. State exactly one of `epochs` and `steps`."""

    global_batch_size: Count
    """Images per optimizer step, over all ranks and all `accumulation` micro-batches."""
    accumulation: Count = 1
    """Micro-batches of a step. More need less memory; batch norm sees each by itself."""
    epochs: Epochs | None = None
    """Length in passes over the dataset."""
    steps: Count | None = None
    """Length in optimizer steps."""
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the backbone; bf16 and fp16 are mixed precision, tf32 rounds the factors of
    convolutions to 10 bits on a GPU from Ampere on, and fp32 rounds nothing. On a CPU fp16 takes
    about ten times as long as fp32, and so does bf16 where the CPU has no instructions for it."""
    compile: bool = False
    """Whether `torch.compile` compiles the backbone."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay per step of an exponential moving average of the backbone's weights, as 0.9999. It is
    verified next to the weights themselves and saved as `backbone_ema.pt`; null keeps none."""
    deterministic: bool = False
    """Whether cuDNN takes repeatable convolutions, by rule. Else it takes the fastest, which it
    measures once for each shape, and two runs on one GPU may differ in last bits."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` is a CUDA device where every process has one, else the CPU."""
    timeout_seconds: Seconds = 600
    """Time after which a rank that waits for the others gives up."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(f"epochs is {self.epochs}, steps is {self.steps}: state one of them")
        if self.accumulation > self.global_batch_size:
            raise ValueError(
                f"accumulation {self.accumulation} exceeds global_batch_size "
                f"{self.global_batch_size}: every micro-batch needs an image"
            )
        return self
