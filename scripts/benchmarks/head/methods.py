"""The methods that are compared, behind one small interface.

`PartialFC`'s arguments are named in `_partial_fc` alone; what a method adds to them is its entry
in `METHODS`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

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
from scripts.benchmarks.head.baseline import MARGIN, MOMENTUM, SCALE, WEIGHT_DECAY, BaselineHead
from scripts.benchmarks.head.cases import MIB, HeadCase

BASELINE = "usual"  # the baseline's name in recorded results, in tables and on the command line

Head = TypeVar("Head", BaselineHead, PartialFC)


@dataclass(frozen=True)
class Work:
    """What one rank does in a step, as far as it determines a limit of the machine."""

    active: int  # classes of this rank that take part
    flops: int  # of its matrix products, two per multiplication and addition
    state_bytes: int  # of the state that the update changes, read once and written once


class Method(ABC, Generic[Head]):
    """One rank's head that can be stepped."""

    selection_seconds: float | None = None  # of choosing classes in the last step, if known

    def __init__(self, case: HeadCase, head: Head) -> None:
        self._case = case
        self._head: Head = head

    def step(self, x: torch.Tensor, labels: torch.Tensor, lr: float) -> torch.Tensor:
        """Run a forward pass, a backward pass to `x` and an update; return the loss."""
        loss = self.gradients(x, labels)
        self.update(lr)
        return loss

    def update(self, lr: float) -> None:
        """Run the update alone, the second part of `step`."""
        self._head.step(lr)

    @abstractmethod
    def gradients(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Run a forward pass and a backward pass to `x`, the first part of `step`."""

    @abstractmethod
    def work(self) -> Work:
        """Return the work of the last step."""

    def state_bytes(self) -> int:
        """Return the bytes of this rank's centres and their optimizer state."""
        return sum(tensor.nbytes for tensor in self._head.state_tensors().values())

    def rows(self, classes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return those of `classes` whose centres this rank holds, and the centres, on the CPU."""
        start, stop = self._head.shard
        local = classes[(classes >= start) & (classes < stop)]
        weight_Ld = self._head.weight.detach()
        return local, weight_Ld[(local - start).to(weight_Ld.device)].cpu()


class BaselineMethod(Method[BaselineHead]):
    """The baseline; in bf16 its matrix product runs under autocast."""

    def __init__(self, case: HeadCase, device: torch.device) -> None:
        super().__init__(case, BaselineHead(case, device))
        self._device = device

    def gradients(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """See `Method`."""
        low = self._case.torch_dtype
        enabled = low != torch.float32
        with torch.autocast(self._device.type, dtype=low if enabled else None, enabled=enabled):
            loss: torch.Tensor = self._head(x, labels)
        torch.autograd.backward(loss)
        return loss.detach()

    def work(self) -> Work:
        """See `Method`: three products; whatever the rate, the whole table is updated."""
        case, active = self._case, min(self._head.quota, len(self._head.weight))
        return Work(active, 6 * case.batch * active * case.dim, 2 * self.state_bytes())


class PartialFCMethod(Method[PartialFC]):
    """`PartialFC` with the options of a method."""

    def __init__(self, case: HeadCase, device: torch.device, **options: Any) -> None:
        super().__init__(case, _partial_fc(case, device, **options))
        self._keep_bytes = budget(options.get("keep_bytes"), KEEP_BYTES, device)
        # Replicated centres meet the samples of their own rank only.
        samples = case.batch // case.ranks if self._head.replicated else case.batch
        self._draws = options.get("sampling") == "importance" and case.rate < 1.0
        self._samples = math.ceil(samples * self._head.loss.batch_rate)
        self._active = 0

    def state_bytes(self) -> int:
        """See `Method`: without a copy of a table that is kept in another form."""
        rows = self._head.table.state_rows().values()
        return sum(each.shape.numel() * each.dtype.itemsize for each in rows)

    def rows(self, classes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Method`."""
        start, stop = self._head.shard
        local = classes[(classes >= start) & (classes < stop)]
        return local, self._head.table.rows_of((local - start).to(self._head.device)).cpu()

    def gradients(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """See `Method`."""
        output: HeadOutput = self._head(x, labels, [len(x)] * self._case.ranks)
        torch.autograd.backward(output.loss)
        self._active = output.active_classes
        self.selection_seconds = float(output.figures["selection_seconds"])
        return output.loss.detach()

    def work(self) -> Work:
        """See `Method`: four products, or three where the first ones are kept; only active rows.

        One more over all rows where the active ones are drawn by importance.
        """
        centres = self._active * self._head.loss.centres_per_class
        settings = StreamSettings(
            SCALE, keep_bytes=self._keep_bytes, matmul_dtype=self._case.torch_dtype
        )
        products = 3 if settings.keeps(centres, self._samples) and not self._draws else 4
        start, stop = self._head.shard
        scored = (stop - start) * self._head.loss.centres_per_class if self._draws else 0
        changed = self._active / max(1, stop - start)
        return Work(
            self._active,
            2 * self._samples * (products * centres + scored) * self._case.dim,
            round(2 * changed * self.state_bytes()),
        )


def _partial_fc(case: HeadCase, device: torch.device, **options: Any) -> PartialFC:
    """Return the head; all that this benchmark knows of `PartialFC`'s arguments is here."""
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
class MethodEntry:
    """A method of the table."""

    build: Callable[[HeadCase, torch.device], Method[Any]]
    same: bool = False  # whether at rate 1 it computes the loss and the centres of the baseline
    tables: float = 2.0  # memory of centres and state, in float32 tables of one centre per class


_KEEP_BYTES = 32 << 30  # a batch of 1,024 with 10 million classes needs 20 GB in bf16
_BF16_MOMENTUM = RowSGD(MOMENTUM, WEIGHT_DECAY, momentum_dtype=torch.bfloat16)


def _variant(*, same: bool = False, tables: float = 2.0, **options: Any) -> MethodEntry:
    return MethodEntry(partial(PartialFCMethod, **options), same, tables)


METHODS: dict[str, MethodEntry] = {
    BASELINE: MethodEntry(BaselineMethod, same=True),
    "partial_fc": _variant(same=True),
    "kept": _variant(keep_bytes=_KEEP_BYTES, same=True),
    "bf16_momentum": _variant(optimizer=_BF16_MOMENTUM, same=True, tables=1.5),
    "bf16": _variant(storage="bf16", tables=1.0),
    "int8": _variant(storage="int8", tables=0.5),
    "adamw": _variant(optimizer=RowAdamW(), tables=3.0),
    "frozen": _variant(update="frozen"),
    "replicated": _variant(placement="replicated", same=True),
    "host": _variant(placement="host", same=True),
    "all": _variant(sampling="all"),
    "importance": _variant(sampling="importance"),
    "random_all": _variant(sampling="random_all"),
    "hash_forest": _variant(sampling="hash_forest"),
    "hard_negative": _variant(sampling="hard_negative"),
    "subcenter_arcface": _variant(loss=subcenter_arcface(k=3), tables=6.0),
    "curricularface": _variant(loss=curricularface()),
    "d_softmax_b": _variant(loss=d_softmax(batch_rate=0.25)),
}


def build(case: HeadCase, device: torch.device) -> Method[Any]:
    """Return a rank's head; raises `ValueError` for a method that does not exist."""
    return choose(METHODS, case.method, "method").build(case, device)


def comparable(case: HeadCase) -> bool:
    """Return whether the case computes what the baseline computes."""
    return case.rate == 1.0 and METHODS[case.method].same


def needed_bytes(case: HeadCase) -> int:
    """Estimate the peak memory of all ranks of a case, to tell what cannot run.

    For the baseline at rate 1: 7 tables in the update (weight, momentum, gradient and copies), or
    3 tables and 4 matrices of logits before it. Measured on a CPU with d = 512: 7.0 tables for
    batches of 128, and for 1,024 9.2 in fp32 and 8.6 in bf16, where this says 11. Below rate 1 they
    are counted: weight, momentum, gradient, decay, and six times the selected rows.
    """
    spare = case.ranks * 512 * MIB
    if case.method != BASELINE:
        copies = case.ranks if case.method == "replicated" else 1
        kept = case.torch_dtype.itemsize * case.batch * round(case.rate * case.classes)
        if case.method == "kept":
            spare += min(kept, case.ranks * _KEEP_BYTES)
        return round(1.05 * METHODS[case.method].tables * copies * case.table_bytes) + spare
    table, logits = case.table_bytes, 4 * case.batch * round(case.rate * case.classes)
    if case.rate == 1.0:
        return max(7 * table, 3 * table + 4 * logits) + spare
    return round((4.0 + 6.0 * case.rate) * table) + 4 * logits + spare
