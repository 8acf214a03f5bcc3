"""What a run is: every setting, its type, its range, and the rules that tie settings together.

Each section of the YAML file is one class here, so this file is also the reference of the config.
Unknown keys are errors, and everything is checked before any process group starts or any file is
written. `recognition.config_file` reads files, `base:` and `--set`.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from recognition.head.losses.base import Loss
from recognition.head.losses.build import build_loss
from recognition.head.sampling.build import check_sampling
from recognition.redaction import check_urls

Probability = Annotated[float, Field(ge=0, le=1)]
Portion = Probability
Fraction = Annotated[float, Field(gt=0, le=1)]
Factor = Annotated[float, Field(ge=0, lt=1)]
Sigma = Annotated[float, Field(gt=0, le=10)]
Quality = Annotated[int, Field(ge=1, le=100)]


def _locations(value: object) -> object:
    """Convert everything but URLs to paths; a URL as a path would lose one of its slashes."""
    items: list[Any] = value if isinstance(value, list) else [value]
    if not items or not all(isinstance(item, str | Path) and str(item) for item in items):
        raise ValueError("expected a path, a URL, or a list of one or more of these")
    check_urls(items)
    locations = [Path(item) if "://" not in str(item) else item for item in items]
    return locations if isinstance(value, list) else locations[0]


Locations = Annotated[Path | str | list[Path | str], BeforeValidator(_locations)]


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    def _at_most_one(self, first: str, second: str) -> None:
        values = getattr(self, first), getattr(self, second)
        if None not in values:
            raise ValueError(f"{first} is {values[0]}, {second} is {values[1]}: state only one")


class DemoData(Section):
    """Procedural faces, generated into `data.train` if that folder does not exist yet.

    Each verification set has two pairs per person: one of the same person, one of different
    people. With more `people_per_set`, smaller differences in accuracy become visible.
    """

    identities: Annotated[int, Field(ge=2)] = 2000
    images: PositiveInt = 20000
    people_per_set: Annotated[int, Field(ge=20, multiple_of=10)] = 300
    seed: int = 0


class Augment(Section):
    """Augmentation of whole batches on the device; `scripts/show_augmentations.py` draws it.

    A pair of numbers is a range, the smaller first.
    """

    flip: Probability = 0.5  # mirrors left and right
    mask: Probability = 0.0  # covers nose, mouth and chin of an aligned face
    crop: Probability = 0.0  # moves and zooms (bilinear, edges repeated)
    crop_zoom: Portion = 0.1  # the visible side is 1 - crop_zoom to 1 + crop_zoom of the image's
    crop_shift: Portion = 0.1  # largest shift in each direction, of the side
    colour: Probability = 0.0  # the four below together
    brightness: Portion = 0.3  # pixels are multiplied by 1 ± brightness
    contrast: Portion = 0.3  # distances from the mean luma are multiplied by 1 ± contrast
    saturation: Portion = 0.3  # distances from the pixel's luma are multiplied by 1 ± saturation
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0  # largest angle in each direction, in turns
    grey: Probability = 0.0  # removes colour
    blur: Probability = 0.0  # Gaussian filter
    blur_sigma: tuple[Sigma, Sigma] = (0.3, 1.5)  # in pixels
    low_resolution: Probability = 0.0  # makes smaller, and as large as before again
    low_resolution_side: tuple[Fraction, Fraction] = (0.2, 1.0)  # in between, of the image's side
    jpeg: Probability = 0.0  # the losses of JPEG (4:2:0), as libjpeg has them
    jpeg_quality: tuple[Quality, Quality] = (20, 95)
    cutout: Probability = 0.0  # covers a square with mid-grey (arXiv 1708.04552)
    cutout_size: Portion = 0.4  # side of that square, of the image's

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("blur_sigma", "low_resolution_side", "jpeg_quality"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} is [{low}, {high}]: state the smaller number first")
        return self


class Data(Section):
    """Where the training images are and how they are read; docs/data.md describes every setting."""

    train: Locations  # one of those that docs/data.md lists, or a YAML list of them
    merge: Literal["offset", "by_name"] = "offset"  # how a list of datasets is joined
    list_root: Path | None = None  # of relative paths in lists of images; default the list's folder
    index_cache: Path | None = None
    num_classes: PositiveInt | None = None  # these two, if stated, are compared with the dataset
    num_images: PositiveInt | None = None
    image_size: Annotated[int, Field(ge=16, le=1024)] = 112
    remap_labels: bool = False
    workers: Literal["auto"] | PositiveInt = "auto"  # decoding threads per rank
    prefetch: Literal["auto"] | PositiveInt = "auto"  # batches that they may be ahead
    decoder: Literal["cpu", "dali"] = "cpu"
    on_bad_record: Literal["stop", "skip"] = "stop"  # skip: another sample takes its place
    max_bad_share: Fraction = 0.001  # of the samples seen; more bad records stop the run
    order: Literal["global", "blocks", "none"] = "global"  # how an epoch is shuffled
    block_records: PositiveInt = 4096  # consecutive records of a block
    mixing_blocks: PositiveInt = 8  # blocks that are mixed at a time
    # Each image once per epoch; each identity equally often; groups of some images per identity.
    sampler: Literal["uniform", "class_balanced", "p_k"] = "uniform"
    identities_per_batch: PositiveInt | None = None  # this and the next for p_k
    images_per_identity: PositiveInt | None = None
    augment: Augment = Augment()
    demo: DemoData | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.sampler != "uniform" and self.order != "global":
            raise ValueError(
                f"order is {self.order} but sampler is {self.sampler}, which picks images by "
                "identity from the whole dataset: set order: global, or sampler: uniform"
            )
        for name in ("identities_per_batch", "images_per_identity"):
            value = getattr(self, name)
            if (self.sampler == "p_k") != (value is not None):
                raise ValueError(
                    f"{name} is {value} and sampler is {self.sampler}: p_k needs it, for example "
                    "4, and no other sampler has it"
                )
        if self.demo is not None and not isinstance(self.train, Path):
            raise ValueError(
                f"train is {self.train}, but the demo is generated into one local folder: set "
                "train to that folder, or demo: null"
            )
        return self


class Backbone(Section):
    """The network from images to embeddings. `frozen_batch_norm` fixes its running statistics."""

    name: str = "r50"
    embedding_size: PositiveInt = 512
    dropout: Factor = 0.0
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
    """The classifier over all identities; docs/architecture.md explains the three choices.

    `sample_rate` is the fraction of all classes that take part in a step, for the rules that have
    one. It is safe with many identities (Glint360K, WebFace) and costs accuracy at low FAR with
    few (MS1MV2 at 0.1: IJB-C TAR at FAR 1e-5 is 92.3, with the full softmax 94.2). `hash_forest`
    rebuilds its index every `rebuild_every` steps. `hard_negative` fills the fraction `hard_share`
    of its quota with the hardest negatives, the rest at random. `dense_update` updates every
    centre in each step, as other implementations do, for comparison. `momentum` is the dtype of
    the centres' SGD momentum; bf16 saves a quarter of the memory per class.

    Two memory budgets per rank, in MiB, by default chosen by device: `block_mib` for the
    temporaries of one block of centres, `keep_mib` for what the first pass keeps for the second,
    batch x active classes numbers; if that fits, a step saves a quarter of its matrix products.
    """

    placement: Literal["sharded", "replicated", "host"] = "sharded"
    sampling: Literal[
        "all", "random_negative", "random_all", "positives_only", "hash_forest", "hard_negative"
    ] = "all"
    sample_rate: Fraction | None = None
    rebuild_every: PositiveInt | None = None
    hard_share: Fraction | None = None
    loss: LossSettings = LossSettings()
    scale: PositiveFloat = 64.0
    inter_class_filter: Annotated[float, Field(gt=-1, lt=1)] | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    momentum: Literal["fp32", "bf16"] = "fp32"
    dense_update: bool = False
    block_mib: PositiveInt | None = None
    keep_mib: NonNegativeInt | None = None

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
        check_sampling(self.sampling, replicated=self.placement == "replicated")
        return self


class Optimizer(Section):
    """SGD or AdamW for the backbone and, row by row, for the class centres.

    `lr` is the rate for `train.global_batch_size` and is never rescaled. `clip_norm` bounds the
    norm of the backbone's gradient, not the head's, as in the published recipes. `momentum` and
    `nesterov` are SGD's, `betas` AdamW's.
    """

    name: Literal["sgd", "adamw"] = "sgd"
    lr: PositiveFloat = 0.1
    momentum: Factor = 0.9
    nesterov: bool = False
    betas: tuple[Factor, Factor] = (0.9, 0.999)
    weight_decay: NonNegativeFloat = 5e-4
    clip_norm: PositiveFloat | None = 5.0

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.nesterov and (self.name != "sgd" or self.momentum == 0):
            raise ValueError(
                f"nesterov is true with name {self.name} and momentum {self.momentum}: it needs "
                "sgd with a momentum above 0"
            )
        return self


class Schedule(Section):
    """The learning rate over the run: `polynomial` decay to 0, or `step` with milestones."""

    name: Literal["polynomial", "step"] = "polynomial"
    power: PositiveFloat = 1.0
    gamma: Annotated[float, Field(gt=0, lt=1)] = 0.1
    milestone_steps: list[PositiveInt] | None = None
    milestone_epochs: list[PositiveFloat] | None = None
    warmup_steps: NonNegativeInt | None = None
    warmup_epochs: NonNegativeFloat | None = None

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
    """Length and arithmetic of training. State exactly one of `epochs` and `steps`.

    `global_batch_size` is the number of images per optimizer step, over all ranks and all
    `accumulation` micro-batches.
    """

    global_batch_size: PositiveInt
    accumulation: PositiveInt = 1
    epochs: PositiveFloat | None = None
    steps: PositiveInt | None = None
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    compile: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    timeout_seconds: PositiveFloat = 600

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


class Regular(Section):
    """Something done every so many steps or epochs; with neither stated, only at the end."""

    every_steps: PositiveInt | None = None
    every_epochs: PositiveFloat | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        self._at_most_one("every_steps", "every_epochs")
        return self


class Verification(Regular):
    """Verification at checkpoints: names of `.bin` files in `folder`, or paths to them.

    `folder` is by default the folder of the (first) training dataset.
    """

    sets: list[str] = []
    folder: Path | None = None
    before_training: bool = False
    batch_size: PositiveInt = 128


class Checkpoint(Regular):
    """When state is saved. The last `keep` checkpoints are kept, and the best by mean accuracy."""

    keep: PositiveInt = 2


class Log(Section):
    """How often the log, the dashboard and `metrics.jsonl` are written."""

    every_steps: PositiveInt = 50


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
                f"head.momentum is bf16, an option of sgd, but optimizer.name is "
                f"{self.optimizer.name}: set head.momentum: fp32"
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
