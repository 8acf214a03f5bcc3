"""The section `data`: where images are, how they are read, ordered and augmented."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, model_validator

from recognition.config.base import (
    Count,
    Fraction,
    LocalPath,
    Locations,
    Portion,
    Probability,
    Range,
    Section,
    Seed,
)

Sigma = Annotated[float, Field(gt=0, le=10)]
Quality = Annotated[int, Field(ge=1, le=100)]


class MadeData(Section):
    """What all datasets have that are made up."""

    identities: int
    images: int

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.images < self.identities:
            raise ValueError(
                f"images is {self.images}, identities is {self.identities}: expected at least one "
                "image of each"
            )
        return self


class DemoData(MadeData):
    """Procedural faces, generated into `data.train` if that folder does not exist yet."""

    identities: Annotated[int, Field(ge=2, lt=2**31)] = 2000
    """People to train on."""
    images: Count = 20000
    """Training images, spread evenly over the identities."""
    people_per_set: Annotated[int, Field(ge=20, lt=2**31, multiple_of=10)] = 300
    """People in each verification set, who are not trained on. Each has two pairs: one of the same
    person, one of different people. With more people, smaller differences in accuracy become
    visible."""
    seed: Seed = 0
    """Decides all faces."""


class SyntheticData(MadeData):
    """Made-up identities instead of `data.train`, for heads of any size: nothing is stored.

    Each identity is a coloured pattern, of which every image is made when it is read; how often an
    identity is seen is long-tailed, as in photographs from the web.
    """

    identities: Annotated[int, Field(ge=2, lt=2**31)] = 10_000_000
    """Identities to train on; each has an image."""
    images: Count = 60_000_000
    """Images of an epoch."""
    seed: Seed = 0
    """Decides patterns and labels."""


class Augment(Section):
    """Augmentation of whole batches on the device; `scripts/show_augmentations.py` draws it.

    A pair of numbers is a range, the smaller first.
    """

    flip: Probability = 0.5
    """Probability of mirroring left and right."""
    mask: Probability = 0.0
    """Probability of covering nose, mouth and chin of an aligned face."""
    crop: Probability = 0.0
    """Probability of moving and zooming (bilinear, edges repeated)."""
    crop_zoom: Portion = 0.1
    """The visible side is 1 - `crop_zoom` to 1 + `crop_zoom` of the image's."""
    crop_shift: Portion = 0.1
    """Largest shift in each direction, as a fraction of the side."""
    colour: Probability = 0.0
    """Probability of changing brightness, contrast, saturation and hue together."""
    brightness: Portion = 0.3
    """Pixels are multiplied by 1 ± `brightness`."""
    contrast: Portion = 0.3
    """Distances from the mean luma are multiplied by 1 ± `contrast`."""
    saturation: Portion = 0.3
    """Distances from the pixel's luma are multiplied by 1 ± `saturation`."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Largest angle in each direction, in turns."""
    grey: Probability = 0.0
    """Probability of removing colour."""
    blur: Probability = 0.0
    """Probability of a Gaussian filter."""
    blur_sigma: Range[Sigma] = (0.3, 1.5)
    """Standard deviation of the filter, in pixels."""
    low_resolution: Probability = 0.0
    """Probability of making the image smaller, and then as large as before again."""
    low_resolution_side: Range[Fraction] = (0.2, 1.0)
    """Side in between, as a fraction of the image's."""
    jpeg: Probability = 0.0
    """Probability of the losses of JPEG (4:2:0), as libjpeg has them."""
    jpeg_quality: Range[Quality] = (20, 95)
    """Quality of that JPEG, as libjpeg counts it."""
    cutout: Probability = 0.0
    """Probability of covering a square with mid-grey (arXiv 1708.04552)."""
    cutout_size: Portion = 0.4
    """Side of that square, as a fraction of the image's."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("blur_sigma", "low_resolution_side", "jpeg_quality"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} is [{low}, {high}]: state the smaller number first")
        return self


class Data(Section):
    """Where the training images are and how they are read; see [data.md](data.md)."""

    train: Locations | None = None
    """The training images: a `.rec` file, a pattern of shards, a folder, a list, a URL, or a YAML
    list of these. Required unless `synthetic` is stated."""
    merge: Literal["offset", "by_name", "separate"] = "offset"
    """How several datasets are joined. `offset`: the classes of each follow those of the one
    before. `by_name`: equal labels or folder names are one class. `separate`: each has a head of
    its own, for datasets that may have people in common."""
    loss_weights: Annotated[list[PositiveFloat], Field(min_length=1)] | None = None
    """Factors of the loss of each dataset's samples, in the order of `train`; for `separate` only.
    By default 1 for all."""
    list_root: LocalPath | None = None
    """Folder that relative paths in lists of images start from; by default the list's own."""
    index_cache: LocalPath | None = None
    """Folder of indexes that cannot be written next to the data; by default the user's cache."""
    num_classes: Count | None = None
    """Number of identities. If stated, another number in the dataset stops the run before its first
    step; with `num_images`, `--dry-run` needs no data."""
    num_images: Count | None = None
    """Number of images, as `num_classes`."""
    image_size: Annotated[int, Field(ge=16, le=1024)] = 112
    """Side of the images that the network sees, in pixels. Others are resized while loading."""
    remap_labels: bool = False
    """Whether labels with gaps are renumbered; otherwise they stop the run."""
    workers: Literal["auto"] | Count = "auto"
    """Loading threads per rank; `auto` measures how many are needed."""
    prefetch: Literal["auto"] | Count = "auto"
    """Batches that the threads may be ahead."""
    decoder: Literal["cpu", "dali"] = "cpu"
    """Who decodes images: `simplejpeg` and Pillow, or NVIDIA DALI."""
    on_bad_record: Literal["stop", "skip"] = "stop"
    """What a damaged record does: stop the run, or have another sample take its place."""
    max_bad_share: Fraction = 0.001
    """More bad records than this fraction of the samples seen stop the run all the same."""
    order: Literal["global", "blocks", "none"] = "global"
    """How each epoch is shuffled: over the whole dataset, in blocks of consecutive records that are
    mixed, or not at all."""
    block_records: Count = 4096
    """Consecutive records of a block."""
    mixing_blocks: Count = 8
    """Blocks that are mixed at a time."""
    sampler: Literal["uniform", "class_balanced", "p_k"] = "uniform"
    """Each image once per epoch; each identity equally often; or groups of some images per identity
    (`identities_per_batch` x `images_per_identity`)."""
    identities_per_batch: Count | None = None
    """Identities of a group; for `p_k` only, which needs it."""
    images_per_identity: Count | None = None
    """Images of each of them; for `p_k` only, which needs it."""
    augment: Augment = Augment()
    """Random changes of the images."""
    demo: DemoData | None = None
    """Generate the dataset. `{}` does so with the defaults."""
    synthetic: SyntheticData | None = None
    """Train on made-up identities of which nothing is stored. `{}` does so with the defaults."""

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
        if self.num_classes is not None and (self.identities_per_batch or 0) > self.num_classes:
            raise ValueError(
                f"identities_per_batch is {self.identities_per_batch} but num_classes is "
                f"{self.num_classes}: a batch cannot have more identities than the dataset"
            )
        datasets = len(self.train) if isinstance(self.train, list) else 1
        if self.loss_weights is not None and (
            self.merge != "separate" or len(self.loss_weights) != datasets
        ):
            raise ValueError(
                f"loss_weights is {self.loss_weights}, merge is {self.merge} and train names "
                f"{datasets} dataset(s): expected merge: separate and one number for each dataset; "
                "correct the list, or leave it out"
            )
        if (self.train is None) == (self.synthetic is None):
            raise ValueError(
                f"train is {self.train} and synthetic is {self.synthetic}: state where the images "
                "are in train, or synthetic: {} for images that are made up, and not both"
            )
        if self.demo is not None and not isinstance(self.train, Path):
            raise ValueError(
                f"train is {self.train}, but the demo is generated into one local folder: set "
                "train to that folder, or demo: null"
            )
        return self
