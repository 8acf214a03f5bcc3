"""The methods that are compared, behind one small interface.

`PartialFC`'s arguments are named in `_partial_fc` alone; what a method adds to them is its entry
in `METHODS`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch

from recognition.head import (
    HeadOutput,
    PartialFC,
    RowAdamW,
    RowSGD,
    cosface,
    curricularface,
    d_softmax,
    subcenter_arcface,
)
from recognition.head.choices import choose
from recognition.head.online_softmax.settings import KEEP_BYTES, StreamSettings, budget
from scripts.benchmarks.head.cases import MIB, Case
from scripts.benchmarks.head.usual import MARGIN, MOMENTUM, SCALE, WEIGHT_DECAY, UsualHead

REFERENCE = "usual"


@dataclass(frozen=True)
class Work:
    """What one rank does in a step, as far as a limit of the machine follows from it.

    Attributes:
        active: classes of this rank that take part.
        flops: operations of its matrix products, two a multiplication.
        state_bytes: bytes read and written if each row of state that the rule changes is read
            once and written once.
    """

    active: int
    flops: int
    state_bytes: int


class Method(Protocol):
    """A head that can be stepped. One instance is one rank's."""

    def step(self, x: torch.Tensor, labels: torch.Tensor, lr: float) -> torch.Tensor:
        """Make a forward pass, a backward pass into `x` and an update; return the loss."""
        ...

    def state_bytes(self) -> int:
        """Return the bytes of this rank's centres and of what their optimizer keeps."""
        ...

    def work(self) -> Work:
        """Return the work of the last step."""
        ...

    def selection_seconds(self) -> float | None:
        """Return how long the last step chose classes; None if the method does not say."""
        ...

    def rows(self, classes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return those of `classes` whose centres this rank holds, and the centres, on the CPU."""
        ...


class Usual:
    """The usual approach; in bf16 its matrix product runs under autocast."""

    def __init__(self, case: Case, device: torch.device) -> None:
        self._case, self._device = case, device
        self._head = UsualHead(
            case.dim, case.classes, rate=case.rate, seed=case.seed, device=device
        )

    def step(self, x: torch.Tensor, labels: torch.Tensor, lr: float) -> torch.Tensor:
        """See `Method`."""
        low = self._case.torch_dtype
        enabled = low != torch.float32
        with torch.autocast(self._device.type, dtype=low if enabled else None, enabled=enabled):
            loss: torch.Tensor = self._head(x, labels)
        torch.autograd.backward(loss)
        self._head.step(lr)
        return loss.detach()

    def state_bytes(self) -> int:
        """See `Method`."""
        return _bytes(self._head.weight.detach(), self._head.momentum)

    def work(self) -> Work:
        """See `Method`: three products, and the whole table is updated, whatever the rate."""
        case, active = self._case, min(self._head.quota, len(self._head.weight))
        return Work(active, 6 * case.batch * active * case.dim, 2 * self.state_bytes())

    def selection_seconds(self) -> float | None:
        """See `Method`."""
        return None

    def rows(self, classes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Method`."""
        return _rows(self._head.weight.detach(), self._head.shard, classes)


class Ours:
    """`PartialFC` with the options of a method."""

    def __init__(self, case: Case, device: torch.device, **options: Any) -> None:
        self._case = case
        self._keep_bytes = budget(options.get("keep_bytes"), KEEP_BYTES, device)
        self._head = _partial_fc(case, device, **options)
        # Replicated centres meet the samples of their own rank only.
        samples = case.batch // case.ranks if self._head.replicated else case.batch
        self._samples = math.ceil(samples * self._head.loss.batch_rate)
        self._active = 0
        self._selection: float | None = None

    def step(self, x: torch.Tensor, labels: torch.Tensor, lr: float) -> torch.Tensor:
        """See `Method`."""
        output: HeadOutput = self._head(x, labels, [len(x)] * self._case.ranks)
        torch.autograd.backward(output.loss)
        self._head.step(lr)
        self._active = output.active_classes
        self._selection = float(output.figures["selection_seconds"])
        return output.loss.detach()

    def state_bytes(self) -> int:
        """See `Method`."""
        return _bytes(*self._head.state_tensors().values())

    def work(self) -> Work:
        """See `Method`: four products, three where the first ones are kept; only active rows."""
        centres = self._active * self._head.loss.centres_per_class
        settings = StreamSettings(
            SCALE, keep_bytes=self._keep_bytes, matmul_dtype=self._case.torch_dtype
        )
        products = 3 if settings.keeps(centres, self._samples) else 4
        start, stop = self._head.shard
        changed = 1.0 if self._head.dense_update else self._active / max(1, stop - start)
        return Work(
            self._active,
            2 * products * self._samples * centres * self._case.dim,
            round(2 * changed * self.state_bytes()),
        )

    def selection_seconds(self) -> float | None:
        """See `Method`."""
        return self._selection

    def rows(self, classes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Method`."""
        return _rows(self._head.weight, self._head.shard, classes)


def _partial_fc(case: Case, device: torch.device, **options: Any) -> PartialFC:
    """Build the head; all that this benchmark knows of `PartialFC`'s arguments is here."""
    settings: dict[str, Any] = {
        "sampling": "all" if case.rate == 1.0 else "random_negative",
        "loss": cosface(MARGIN),
        "optimizer": RowSGD(MOMENTUM, WEIGHT_DECAY),
    }
    return PartialFC(
        case.dim,
        case.classes,
        sample_rate=case.rate,
        scale=SCALE,
        seed=case.seed,
        matmul_dtype=case.torch_dtype,
        device=device,
        **(settings | options),
    )


@dataclass(frozen=True)
class Recipe:
    """A method of the table.

    Attributes:
        build: makes a rank's head.
        same: whether at rate 1 it computes the loss and the centres of the usual approach.
        tables: memory of its centres and their state, in float32 tables of one centre a class.
    """

    build: Callable[[Case, torch.device], Method]
    same: bool = False
    tables: float = 2.0


_KEEP_BYTES = 32 << 30  # of one batch of 1,024 and 10 million classes in bf16 it takes 20 GB
_BF16_MOMENTUM = RowSGD(MOMENTUM, WEIGHT_DECAY, momentum_dtype=torch.bfloat16)

METHODS: dict[str, Recipe] = {
    REFERENCE: Recipe(Usual, same=True),
    "partial_fc": Recipe(Ours, same=True),
    "kept": Recipe(partial(Ours, keep_bytes=_KEEP_BYTES), same=True),
    "bf16_momentum": Recipe(partial(Ours, optimizer=_BF16_MOMENTUM), same=True, tables=1.5),
    "adamw": Recipe(partial(Ours, optimizer=RowAdamW()), tables=3.0),
    "dense_update": Recipe(partial(Ours, dense_update=True), same=True),
    "replicated": Recipe(partial(Ours, placement="replicated"), same=True),
    "host": Recipe(partial(Ours, placement="host"), same=True),
    "random_all": Recipe(partial(Ours, sampling="random_all")),
    "hash_forest": Recipe(partial(Ours, sampling="hash_forest")),
    "hard_negative": Recipe(partial(Ours, sampling="hard_negative")),
    "subcenter_arcface": Recipe(partial(Ours, loss=subcenter_arcface(k=3)), tables=6.0),
    "curricularface": Recipe(partial(Ours, loss=curricularface())),
    "d_softmax_b": Recipe(partial(Ours, loss=d_softmax(batch_rate=0.25))),
}


def build(case: Case, device: torch.device) -> Method:
    """Return a rank's head; raises `ValueError` for a method that does not exist."""
    return choose(METHODS, case.method, "method").build(case, device)


def comparable(case: Case) -> bool:
    """Return whether the case computes what the usual approach computes."""
    return case.rate == 1.0 and METHODS[case.method].same


def needed_bytes(case: Case) -> int:
    """Estimate what all ranks of a case take at their peak, to tell what cannot run.

    The usual approach at rate 1 was measured at 7.0 tables with its logits, at 200,000 classes;
    below 1 it is counted: weight, momentum, gradient, decay, and the picked rows six times.
    """
    spare = case.ranks * 512 * MIB
    if case.method != REFERENCE:
        copies = case.ranks if case.method == "replicated" else 1
        kept = case.torch_dtype.itemsize * case.batch * round(case.rate * case.classes)
        if case.method == "kept":
            spare += min(kept, case.ranks * _KEEP_BYTES)
        return round(1.05 * METHODS[case.method].tables * copies * case.table_bytes) + spare
    logits = 4 * case.batch * round(case.rate * case.classes)
    tables = 7.0 if case.rate == 1.0 else 4.0 + 6.0 * case.rate
    return round(tables * case.table_bytes) + 4 * logits + spare


def _bytes(*tensors: torch.Tensor) -> int:
    return sum(tensor.numel() * tensor.itemsize for tensor in tensors)


def _rows(
    weight_Ld: torch.Tensor, shard: tuple[int, int], classes: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    mine = classes[(classes >= shard[0]) & (classes < shard[1])]
    return mine, weight_Ld[(mine - shard[0]).to(weight_Ld.device)].cpu()
