"""The whole config, and its sections `verification`, `checkpoint` and `log`."""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from recognition.config.base import Count, Epochs, LocalPath, Section, Seed
from recognition.config.data import Data
from recognition.config.head import Head
from recognition.config.training import Backbone, Optimizer, Schedule, Train


class Regular(Section):
    """Something done every so many steps or epochs; with neither stated, only at the end."""

    every_steps: Count | None = None
    """Steps between two."""
    every_epochs: Epochs | None = None
    """The same in epochs."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        self._at_most_one("every_steps", "every_epochs")
        return self


class Verification(Regular):
    """When the network is verified, and on what.

    The last step always verifies; one at most a tenth of the interval before it is left out.
    """

    sets: list[str] = Field(default=[])
    """Names of `.bin` files in `folder`, or paths to them; and suites, `.yaml` files such as
    `configs/suites/ijbc.yaml`, whose headline figures are computed without intervals."""
    folder: LocalPath | None = None
    """By default the folder of the (first) training dataset. A suite states its own."""
    before_training: bool = False
    """Whether to verify before the first step too."""
    batch_size: Count = 128
    """Images per rank at a time."""


class Checkpoint(Regular):
    """When state is saved.

    The last step always saves; one at most a tenth of the interval before it is left out.
    """

    keep: Count = 2
    """How many of the last checkpoints are kept, besides the best one."""
    best: str | None = None
    """The figure of which the best checkpoint has most, as `lfw/accuracy`, `lfw/accuracy_no_flip`,
    `ijbc/tar_at_far/1e-4` or `tinyface/rank/1`; with `ema/` before it, that of the averaged
    weights. By default the mean accuracy over the sets that have one, of the weights as trained.
    """


class Log(Section):
    """How often the log, the dashboard and `metrics.jsonl` are written."""

    every_steps: Count = 50
    """Steps of an interval, over which figures are averaged."""
    histograms_every: Count = 4
    """Intervals from one histogram of cosines and norms to the next; the last interval has one. It
    costs a matrix product of the head."""
    loggers: list[Literal["tensorboard", "wandb", "mlflow"]] = Field(default=["tensorboard"])
    """What shows the figures besides `metrics.jsonl`: TensorBoard, Weights & Biases
    (`pip install -e '.[wandb]'`), MLflow (`.[mlflow]`); see [dashboards.md](dashboards.md)."""

    @field_validator("loggers")
    @classmethod
    def _check_loggers(cls, loggers: list[str]) -> list[str]:
        if len(set(loggers)) < len(loggers):
            raise ValueError(f"{', '.join(loggers)}: a logger is listed twice; list each once")
        return loggers


class Config(Section):
    """A whole run."""

    output: LocalPath
    """The run folder."""
    seed: Seed = 0
    """Decides the initial weights, the order of samples, augmentation and sampling."""
    init_from: LocalPath | None = None
    """Backbone weights to start from: a run folder, a checkpoint, or a weight file."""
    init_weights: Literal["raw", "ema"] = "raw"
    """Which weights of a run or checkpoint `init_from` means: those that were trained, or their
    moving average (`train.ema`)."""
    data: Data
    """Where the training images are and how they are read."""
    backbone: Backbone = Backbone()
    """The network."""
    head: Head = Head()
    """The classifier over all identities."""
    optimizer: Optimizer = Optimizer()
    """SGD or AdamW."""
    schedule: Schedule = Schedule()
    """The learning rate over the run."""
    train: Train
    """Length and arithmetic of training."""
    verification: Verification = Verification()
    """When the network is verified, and on what."""
    checkpoint: Checkpoint = Checkpoint()
    """When state is saved."""
    log: Log = Log()
    """How often figures are written."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.init_weights != "raw" and self.init_from is None:
            raise ValueError(
                f"init_weights is {self.init_weights}, and init_from is null: name the run or "
                "checkpoint to start from in init_from, or leave init_weights out"
            )
        if self.head.init == "class_means" and self.init_from is None:
            raise ValueError(
                "head.init is class_means, and init_from is null: the embeddings of an untrained "
                "network say nothing about people; name its weights in init_from, or set "
                "head.init: random"
            )
        best = self.checkpoint.best
        if best is not None and best.startswith("ema/") and self.train.ema is None:
            raise ValueError(
                f"checkpoint.best is {best}, and train.ema is null: state the decay of an average "
                "in train.ema, or name the figure without ema/"
            )
        if self.head.momentum not in (None, "fp32") and self.optimizer.name != "sgd":
            raise ValueError(
                f"head.momentum is {self.head.momentum}, an option of sgd, but optimizer.name is "
                f"{self.optimizer.name}, whose state is always fp32: set head.momentum: null; "
                "head.storage applies to the centres of every optimizer"
            )
        identities, images = self.data.identities_per_batch, self.data.images_per_identity
        group, batch = (identities or 1) * (images or 1), self.train.global_batch_size
        if batch % group:
            raise ValueError(
                f"train.global_batch_size is {batch}, not a multiple of data.identities_per_batch "
                f"{identities} x data.images_per_identity {images} = {group}: a batch consists of "
                "whole groups"
            )
        return self
