"""The section `head`: the classifier over all identities."""

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, PositiveFloat, model_validator

from recognition.config.base import Count, CountOrZero, Epochs, Fraction, LocalPath, Section
from recognition.head.losses.base import Loss
from recognition.head.losses.build import build_loss
from recognition.head.sampling.build import check_sampling


class LossSettings(Section):
    """What is computed over the active classes: `loss: {name: cosface, m: 0.4}`.

    The options of a loss are the arguments of the function of its name in
    `recognition/head/losses/`, which also has their defaults and checks them.
    """

    model_config = ConfigDict(extra="allow")

    name: str = "cosface"
    """One of those below, or one of your own; what each computes: [methods.md](methods.md)."""

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
    "sample_rate": ("importance", "random_negative", "random_all", "hash_forest", "hard_negative"),
    "rebuild_every": ("hash_forest",),
    "hard_share": ("hard_negative",),
}


class Head(Section):
    """The classifier over all identities; [methods.md](methods.md) explains the three choices."""

    placement: Literal["sharded", "replicated", "host"] = "sharded"
    """Where the class centres live: split over the ranks, on every rank, or in CPU memory, from
    which only active rows are sent."""
    sampling: Literal[
        "all",
        "importance",
        "random_negative",
        "random_all",
        "positives_only",
        "hash_forest",
        "hard_negative",
    ] = "all"
    """Which classes take part in a step."""
    sample_rate: Fraction | list[Fraction] | None = None
    """Fraction of all classes that take part in a step, for the rules that have one. Safe with many
    identities (Glint360K, WebFace); costs accuracy at low FAR with few (MS1MV2 at 0.1: IJB-C TAR at
    FAR 1e-5 is 92.3, with the full softmax 94.2). A list is of the fractions that follow each
    other, such as `[0.1, 0.3, 1]`: few negatives first, and all at the end."""
    sample_rate_steps: list[Count] | None = None
    """Steps at which the next rate of the list begins, ascending: one fewer than it has rates."""
    sample_rate_epochs: list[Epochs] | None = None
    """The same in epochs."""
    rebuild_every: Count | None = None
    """Steps between two builds of the index of `hash_forest`; by default 100."""
    hard_share: Fraction | None = None
    """Fraction of its quota that `hard_negative` fills with the hardest negatives; the rest is
    random. By default 0.5."""
    loss: LossSettings = LossSettings()
    """What is computed over the active classes."""
    scale: PositiveFloat = 64.0
    """Factor of the cosines before the softmax."""
    inter_class_filter: Annotated[float, Field(gt=-1, lt=1)] | None = None
    """Cosine above which a negative is left out, as it may be the same person; null keeps all."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the matrix products: `auto` is bf16 on a GPU of compute capability 8.0 or
    higher, and on a CPU that a measurement at the start shows to be faster at it, else fp32; a run
    that resumes on a CPU keeps what it had. bf16 rounds their factors and results to 8 bits;
    margins, softmax statistics and updates are always fp32."""
    storage: Literal["fp32", "bf16", "int8"] = "fp32"
    """How the centres are kept between steps: 4, 2 or 1 bytes per number; `int8` with a scale per
    class. Arithmetic is fp32; what is written is rounded at random, right on average."""
    momentum: Literal["fp32", "bf16", "int8"] | None = None
    """The same for the centres' SGD momentum; by default that of `storage`."""
    update: Literal["coasting", "frozen"] = "coasting"
    """What a centre does in a step that it takes no part in. `coasting`: its momentum moves it on
    and it decays, as with a gradient of zero; `frozen`: it stays as it is."""
    block_mib: Count | None = None
    """MiB per rank of temporaries of one block of centres; by default chosen by device."""
    keep_mib: CountOrZero | None = None
    """MiB per rank for what the first pass keeps for the second, batch x active classes numbers; if
    that fits, a step saves a quarter of its matrix products. By default chosen by device."""

    init: Literal["random", "class_means"] = "random"
    """What centres start from. `class_means`: from the mean embedding of the first 20 images of
    each class, which the network of the top-level `init_from` makes before the first step."""
    init_from: LocalPath | None = None
    """Folder of class centres to start from, as arcface_torch saves them: `softmax_fc_gpu_0.pt` and
    so on, of any number of GPUs. The classes must be those of the data, in the same order."""

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
        if self.init != "random" and self.init_from is not None:
            raise ValueError(
                f"init is {self.init}, and init_from is {self.init_from}: centres start from one "
                "of them; leave the other out"
            )
        self._check_rates()
        check_sampling(self.sampling, replicated=self.placement == "replicated")
        return self

    def _check_rates(self) -> None:
        self._at_most_one("sample_rate_steps", "sample_rate_epochs")
        milestones = self.sample_rate_steps or self.sample_rate_epochs or []
        rates = self.sample_rate if isinstance(self.sample_rate, list) else [self.sample_rate]
        if len(rates) != len(milestones) + 1:
            raise ValueError(
                f"sample_rate is {self.sample_rate} and the rates change at {milestones}: expected "
                "one rate more than sample_rate_steps or sample_rate_epochs has milestones"
            )
        if sorted(set(milestones)) != list(milestones):
            raise ValueError(
                f"the sample rates change at {milestones}: state the milestones in ascending order"
            )
