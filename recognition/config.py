"""What a run is: every setting, its type, its range, and the rules that tie settings together.

One section of the YAML file is one class here, so this file is also the reference of the config.
Unknown keys are refused; everything is checked before a process group or a file is touched.
Reading files, `base:` and `--set` live in `recognition.config_file`.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    def _at_most_one(self, first: str, second: str) -> None:
        values = getattr(self, first), getattr(self, second)
        if None not in values:
            raise ValueError(f"{first} is {values[0]}, {second} is {values[1]}: state only one")


class DemoData(Section):
    """Procedural faces, generated into `data.train` when that folder does not exist yet."""

    identities: Annotated[int, Field(ge=2)] = 2000
    images: Positive = 20000
    seed: int = 0


class Augment(Section):
    """Augmentation on batches, on the device; each entry is a probability per image."""

    flip: Probability = 0.5
    crop: Probability = 0.0
    colour: Probability = 0.0
    grey: Probability = 0.0
    cutout: Probability = 0.0


class Data(Section):
    """Where the training images are and how they are read.

    `train` is a folder with `train.rec` (and `train.idx`), a `.rec` file, or a folder with one
    sub-folder of images per identity. `num_classes` and `num_images` are facts of the dataset:
    leave them out, or state them to have them checked before the first step.
    """

    train: Path
    num_classes: Positive | None = None
    num_images: Positive | None = None
    image_size: Annotated[int, Field(ge=16, le=1024)] = 112
    remap_labels: bool = False
    workers: Literal["auto"] | Annotated[int, Field(ge=0)] = "auto"
    prefetch: Positive = 4
    augment: Augment = Augment()
    demo: DemoData | None = None


class Backbone(Section):
    """The network from images to embeddings. `frozen_batch_norm` keeps running statistics fixed."""

    name: str = "r50"
    embedding_size: Positive = 512
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    activation_checkpointing: bool = False
    frozen_batch_norm: bool = False


class Margin(Section):
    """How the target's logit is made harder: `margin: {name: cosface, m: 0.4}`.

    `softmax` has none, `cosface` and `arcface` take `m`, `combined` takes `m1`, `m2`, `m3`.
    `detached` is the published ArcFace code's gradient, which leaves out the margin's derivative.
    """

    name: Literal["softmax", "cosface", "arcface", "combined"] = "cosface"
    m: Annotated[float, Field(ge=0)] | None = None
    m1: Annotated[float, Field(ge=1)] | None = None
    m2: Annotated[float, Field(ge=0)] | None = None
    m3: Annotated[float, Field(ge=0)] | None = None
    detached: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        takes = {
            "softmax": (),
            "cosface": ("m",),
            "arcface": ("m",),
            "combined": ("m1", "m2", "m3"),
        }
        allowed = takes[self.name]
        for key, value in self.values().items():
            if key not in allowed:
                raise ValueError(
                    f"{self.name} has no {key} (found {value}); "
                    f"it takes {', '.join(allowed) or 'no value'}"
                )
        missing = [key for key in allowed if key not in self.values()]
        if missing:
            raise ValueError(f"{self.name} needs {', '.join(allowed)}: {missing[0]} is missing")
        if self.detached and self.name not in ("arcface", "combined"):
            raise ValueError(f"detached is a form of arcface and combined, not of {self.name}")
        return self

    def values(self) -> dict[str, float]:
        """Return the margin's own numbers by name."""
        keys = ("m", "m1", "m2", "m3")
        return {key: getattr(self, key) for key in keys if getattr(self, key) is not None}


class Head(Section):
    """The classifier over all identities; see docs/architecture.md for the three choices.

    `sample_rate` belongs to `random_negative` alone: the share of all classes that take part in a
    step. It is safe on large identity counts (Glint360K, WebFace) and costs accuracy at low FAR on
    small ones (MS1MV2 at 0.1: IJB-C TAR at FAR 1e-5 92.3 against 94.2 for the full softmax).
    """

    placement: Literal["sharded"] = "sharded"
    sampling: Literal["all", "random_negative", "positives_only"] = "all"
    sample_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    margin: Margin = Margin(name="cosface", m=0.4)
    scale: Annotated[float, Field(gt=0)] = 64.0
    inter_class_filter: Annotated[float, Field(gt=-1, lt=1)] | None = None
    precision: Literal["fp32", "bf16"] = "fp32"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.sampling == "random_negative" and self.sample_rate is None:
            raise ValueError("sampling: random_negative needs a sample_rate, for example 0.1")
        if self.sampling != "random_negative" and self.sample_rate is not None:
            raise ValueError(
                f"sample_rate is {self.sample_rate} but sampling is {self.sampling}, which has no "
                "rate: set sampling: random_negative, or sample_rate: null"
            )
        return self


class Optimizer(Section):
    """SGD for the backbone and, row by row, for the class centres.

    `lr` belongs to `train.global_batch_size` and is never rescaled. `clip_norm` bounds the norm of
    the backbone's gradient; the head is left alone, as in the published recipes.
    """

    name: Literal["sgd"] = "sgd"
    lr: Annotated[float, Field(gt=0)] = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    clip_norm: Annotated[float, Field(gt=0)] | None = 5.0


class Schedule(Section):
    """The learning rate over the run: `polynomial` decay to 0, or `step` with milestones."""

    name: Literal["polynomial", "step"] = "polynomial"
    power: Annotated[float, Field(gt=0)] = 1.0
    gamma: Annotated[float, Field(gt=0, lt=1)] = 0.1
    milestone_steps: list[Positive] | None = None
    milestone_epochs: list[Annotated[float, Field(gt=0)]] | None = None
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    warmup_epochs: Annotated[float, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        self._at_most_one("warmup_steps", "warmup_epochs")
        self._at_most_one("milestone_steps", "milestone_epochs")
        milestones = self.milestone_steps or self.milestone_epochs
        if (self.name == "step") != bool(milestones):
            raise ValueError(
                f"name is {self.name} and milestones are {milestones}: the step schedule needs "
                "milestone_steps or milestone_epochs, the polynomial one has none"
            )
        if milestones and sorted(set(milestones)) != list(milestones):
            raise ValueError(f"milestones must rise: found {milestones}")
        return self


class Train(Section):
    """How long and how: exactly one of `epochs` and `steps`.

    `global_batch_size` counts the images of one optimizer step over all ranks and all
    `accumulation` micro-batches; each rank's share follows from it.
    """

    global_batch_size: Positive
    accumulation: Positive = 1
    epochs: Annotated[float, Field(gt=0)] | None = None
    steps: Positive | None = None
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    compile: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    timeout_seconds: Annotated[float, Field(gt=0)] = 600

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(
                "state exactly one of epochs and steps: "
                f"found epochs: {self.epochs} and steps: {self.steps}"
            )
        if self.accumulation > self.global_batch_size:
            raise ValueError(
                f"accumulation {self.accumulation} exceeds global_batch_size "
                f"{self.global_batch_size}: every micro-batch needs an image"
            )
        return self


class Verification(Section):
    """Verification at checkpoints: names of `.bin` files in `folder`, or paths to them.

    `folder` is the training data's folder unless stated. Without `every_steps` or `every_epochs`
    a run verifies at its end only.
    """

    sets: list[str] = []
    folder: Path | None = None
    every_steps: Positive | None = None
    every_epochs: Annotated[float, Field(gt=0)] | None = None
    before_training: bool = False
    batch_size: Positive = 128

    @model_validator(mode="after")
    def _check(self) -> Self:
        self._at_most_one("every_steps", "every_epochs")
        return self


class Checkpoint(Section):
    """When state is saved and what is kept: the last `keep`, and the best by mean accuracy.

    Without `every_steps` or `every_epochs` a run saves at its end only.
    """

    every_steps: Positive | None = None
    every_epochs: Annotated[float, Field(gt=0)] | None = None
    keep: Positive = 2

    @model_validator(mode="after")
    def _check(self) -> Self:
        self._at_most_one("every_steps", "every_epochs")
        return self


class Log(Section):
    """How often a line, a dashboard point and a `metrics.jsonl` object are written."""

    every_steps: Positive = 50


class Config(Section):
    """A whole run."""

    output: Path
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    init_from: Path | None = None
    data: Data
    backbone: Backbone = Backbone()
    head: Head = Head()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    train: Train
    verification: Verification = Verification()
    checkpoint: Checkpoint = Checkpoint()
    log: Log = Log()
