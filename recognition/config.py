"""What a run is: every setting, its type, its range, and the rules that tie settings together.

One section of the YAML file is one class here, so this file is also the reference of the config.
Unknown keys are refused; everything is checked before a process group or a file is touched.
Reading files, `base:` and `--set` live in `recognition.config_file`.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from recognition.head.losses.base import Loss
from recognition.head.losses.build import build_loss

Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
Part = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Sigma = Annotated[float, Field(gt=0, le=10)]
Quality = Annotated[int, Field(ge=1, le=100)]


def _locations(value: object) -> object:
    """Make paths of what is no URL, which as a path would lose one of its slashes."""
    items: list[Any] = value if isinstance(value, list) else [value]
    if not items or not all(isinstance(item, str | Path) and str(item) for item in items):
        raise ValueError("expected a path, a URL, or a list of one or more of these")
    places = [Path(item) if "://" not in str(item) else item for item in items]
    return places if isinstance(value, list) else places[0]


Locations = Annotated[Path | str | list[Path | str], BeforeValidator(_locations)]


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    def _at_most_one(self, first: str, second: str) -> None:
        values = getattr(self, first), getattr(self, second)
        if None not in values:
            raise ValueError(f"{first} is {values[0]}, {second} is {values[1]}: state only one")


class DemoData(Section):
    """Procedural faces, generated into `data.train` when that folder does not exist yet.

    Each verification set has two pairs for each of its `people_per_set` people: one of the same
    person, one of different ones. More people tell smaller differences apart.
    """

    identities: Annotated[int, Field(ge=2)] = 2000
    images: Positive = 20000
    people_per_set: Annotated[int, Field(ge=20, multiple_of=10)] = 300
    seed: int = 0


class Augment(Section):
    """Augmentation on batches, on the device: what may happen to an image, in this order.

    `flip`, `mask`, `crop`, `colour`, `grey`, `blur`, `low_resolution`, `jpeg` and `cutout` are
    probabilities; the entries after each say how strong it is, and two numbers are the least and
    the largest. `data.augmentations.augment.Augmentation` describes them all;
    `scripts/show_augmentations.py` draws what they do.
    """

    flip: Probability = 0.5
    mask: Probability = 0.0
    crop: Probability = 0.0
    crop_zoom: Part = 0.1
    crop_shift: Part = 0.1
    colour: Probability = 0.0
    brightness: Part = 0.3
    contrast: Part = 0.3
    saturation: Part = 0.3
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    grey: Probability = 0.0
    blur: Probability = 0.0
    blur_sigma: tuple[Sigma, Sigma] = (0.3, 1.5)
    low_resolution: Probability = 0.0
    low_resolution_side: tuple[Share, Share] = (0.2, 1.0)
    jpeg: Probability = 0.0
    jpeg_quality: tuple[Quality, Quality] = (20, 95)
    cutout: Probability = 0.0
    cutout_size: Part = 0.4

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("blur_sigma", "low_resolution_side", "jpeg_quality"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} is [{low}, {high}]: state the least first")
        return self


class Data(Section):
    """Where the training images are and how they are read.

    `train` is a `.rec` file (with its `.idx` beside it), a pattern of shards (`train-*.rec`), a
    folder with `train.rec` or shards, a folder with a sub-folder of images per identity, a list of
    images, or a YAML list of such datasets. With several, `merge: offset` has the classes of each
    follow those of the one before, `by_name` takes what has the same label or folder name for the
    same identity. `list_root` is what the paths in list files are relative to, by default the
    list's folder; `index_cache` a folder for the indexes of datasets whose own folder cannot be
    written, by default the user's cache folder. `num_classes` and `num_images` are facts of the
    dataset: leave them out, or state them to have them checked before the first step. `workers`
    are the threads of a rank that decode, `prefetch` the batches that they may be ahead: both are
    measured and chosen at the start unless stated. `decoder: dali` has NVIDIA DALI decode on the
    device that trains; it is an extra, and the samples are the same.

    `order` is how an epoch is shuffled: `global` over the whole dataset; `blocks`, for disks and
    object stores that are slow at random reads, in runs of `block_records` consecutive records of
    which `mixing_blocks` are mixed at a time; `none` in the order of the files. `sampler` is which
    images come at all: `uniform` each once an epoch, `class_balanced` each identity equally often,
    `p_k` batches of `identities_per_batch` with `images_per_identity` each.

    A record that cannot be read or decoded stops the run; with `on_bad_record: skip` another sample
    takes its place, chosen by the seed, as long as no more than `max_bad_share` of the samples seen
    are bad (ten may be, where the whole dataset has room for them).
    """

    train: Locations
    merge: Literal["offset", "by_name"] = "offset"
    list_root: Path | None = None
    index_cache: Path | None = None
    num_classes: Positive | None = None
    num_images: Positive | None = None
    image_size: Annotated[int, Field(ge=16, le=1024)] = 112
    remap_labels: bool = False
    workers: Literal["auto"] | Positive = "auto"
    prefetch: Literal["auto"] | Positive = "auto"
    decoder: Literal["cpu", "dali"] = "cpu"
    on_bad_record: Literal["stop", "skip"] = "stop"
    max_bad_share: Annotated[float, Field(gt=0, le=1)] = 0.001
    order: Literal["global", "blocks", "none"] = "global"
    block_records: Positive = 4096
    mixing_blocks: Positive = 8
    sampler: Literal["uniform", "class_balanced", "p_k"] = "uniform"
    identities_per_batch: Positive | None = None
    images_per_identity: Positive | None = None
    augment: Augment = Augment()
    demo: DemoData | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.sampler != "uniform" and self.order != "global":
            raise ValueError(
                f"order is {self.order} but sampler is {self.sampler}, which picks images by their "
                "identity from anywhere: set order: global, or sampler: uniform"
            )
        for name in ("identities_per_batch", "images_per_identity"):
            value = getattr(self, name)
            if self.sampler == "p_k" and value is None:
                raise ValueError(f"sampler: p_k needs {name}, for example 4")
            if self.sampler != "p_k" and value is not None:
                raise ValueError(
                    f"{name} is {value} but sampler is {self.sampler}: set sampler: p_k, or "
                    f"{name}: null"
                )
        if self.demo is not None and not isinstance(self.train, Path):
            raise ValueError(
                f"demo is made in one folder of this machine, but train is {self.train}: set train "
                "to that folder, or demo: null"
            )
        return self


class Backbone(Section):
    """The network from images to embeddings. `frozen_batch_norm` keeps running statistics fixed."""

    name: str = "r50"
    embedding_size: Positive = 512
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    activation_checkpointing: bool = False
    frozen_batch_norm: bool = False


class LossSettings(Section):
    """What is computed over the active classes: `loss: {name: cosface, m: 0.4}`.

    The options of a loss are the arguments of the function of its name in
    `recognition/head/losses/`, where each is described, checked and has its default.
    """

    model_config = ConfigDict(extra="allow")

    name: str = "cosface"

    @model_validator(mode="before")
    @classmethod
    def _drop_null(cls, values: Any) -> Any:
        # Earlier versions wrote down every option of every loss, null where it was not stated.
        if isinstance(values, dict):
            return {key: value for key, value in values.items() if value is not None}
        return values

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.build()
        return self

    def build(self) -> Loss:
        """Return the loss. Raises `ValueError` for a wrong name or option."""
        return build_loss(self.name, **(self.model_extra or {}))


# The options of `Head` that not every sampling rule has.
_SAMPLINGS_WITH = {
    "sample_rate": ("random_negative", "random_all", "hash_forest", "hard_negative"),
    "rebuild_every": ("hash_forest",),
    "hard_share": ("hard_negative",),
}


class Head(Section):
    """The classifier over all identities; see docs/architecture.md for the three choices.

    `sample_rate` is the share of all classes that take part in a step, for the rules that have
    one. It is safe on large identity counts (Glint360K, WebFace) and costs accuracy at low FAR on
    small ones (MS1MV2 at 0.1: IJB-C TAR at FAR 1e-5 92.3 against 94.2 for the full softmax).
    `rebuild_every` is the steps between two indexes of `hash_forest`, `hard_share` the share of the
    quota that hardness decides in `hard_negative`, the rest being random. `dense_update` moves
    every centre in each step, as other implementations do; for comparison. `momentum` is what SGD's
    momentum of the centres is kept in: bf16 takes a quarter off a class's memory.

    Two budgets of a rank's memory, in MiB, chosen by device unless stated: `block_mib` for the
    temporaries of one block of centres, and `keep_mib` for what a step's first pass keeps for the
    second, batch x active classes numbers; where that fits, a step saves a quarter of its matrix
    products.
    """

    placement: Literal["sharded", "replicated", "host"] = "sharded"
    sampling: Literal[
        "all", "random_negative", "random_all", "positives_only", "hash_forest", "hard_negative"
    ] = "all"
    sample_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    rebuild_every: Positive | None = None
    hard_share: Annotated[float, Field(gt=0, le=1)] | None = None
    loss: LossSettings = LossSettings()
    scale: Annotated[float, Field(gt=0)] = 64.0
    inter_class_filter: Annotated[float, Field(gt=-1, lt=1)] | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    momentum: Literal["fp32", "bf16"] = "fp32"
    dense_update: bool = False
    block_mib: Positive | None = None
    keep_mib: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        for option, samplings in _SAMPLINGS_WITH.items():
            value = getattr(self, option)
            if value is not None and self.sampling not in samplings:
                raise ValueError(
                    f"{option} is {value} but sampling is {self.sampling}, which has no such "
                    f"option: set sampling to one of {', '.join(samplings)}, or {option}: null"
                )
        if self.sample_rate is None and self.sampling in _SAMPLINGS_WITH["sample_rate"]:
            raise ValueError(f"sampling: {self.sampling} needs a sample_rate, for example 0.1")
        if self.placement == "replicated" and self.sampling in ("hash_forest", "hard_negative"):
            raise ValueError(
                f"sampling: {self.sampling} chooses by the batch's embeddings, of which a rank has "
                "only its own with placement: replicated, so the ranks' copies would part: set "
                "placement: sharded, or sampling: random_negative"
            )
        return self


class Optimizer(Section):
    """SGD or AdamW for the backbone and, row by row, for the class centres.

    `lr` belongs to `train.global_batch_size` and is never rescaled. `clip_norm` bounds the norm of
    the backbone's gradient; the head is left alone, as in the published recipes. `momentum` and
    `nesterov` belong to SGD, `betas` to AdamW.
    """

    name: Literal["sgd", "adamw"] = "sgd"
    lr: Annotated[float, Field(gt=0)] = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = False
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (
        0.9,
        0.999,
    )
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    clip_norm: Annotated[float, Field(gt=0)] | None = 5.0

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.nesterov and (self.name != "sgd" or self.momentum == 0):
            raise ValueError(
                f"nesterov is a form of sgd with momentum, not of {self.name} with momentum "
                f"{self.momentum}"
            )
        return self


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

    `folder` is the training data's folder, that of the first of several, unless stated. Without
    `every_steps` or `every_epochs` a run verifies at its end only.
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

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.head.momentum == "bf16" and self.optimizer.name != "sgd":
            raise ValueError(
                f"head.momentum is bf16, which belongs to sgd, but optimizer.name is "
                f"{self.optimizer.name}: set head.momentum: fp32"
            )
        identities, images = self.data.identities_per_batch, self.data.images_per_identity
        lot, batch = (identities or 1) * (images or 1), self.train.global_batch_size
        if batch % lot:
            raise ValueError(
                f"train.global_batch_size is {batch}, no multiple of data.identities_per_batch "
                f"{identities} x data.images_per_identity {images} = {lot}: a batch is made of "
                "whole lots; make them equal, or the batch several lots"
            )
        return self
