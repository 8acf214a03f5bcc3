"""What the trainer asks of parts that live in `data/` and `eval/`, which it may not import."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor


class Batch(Protocol):
    """A micro-batch of this rank: uint8 images [b, 3, S, S] and int64 labels [b]."""

    images: Tensor
    labels: Tensor


class BatchSource(Protocol):
    """Gives this rank's micro-batches of steps `first … last - 1`, in order."""

    def batches(self, first_step: int, last_step: int) -> Iterator[Any]:
        """Return `accumulation` micro-batches for each step."""
        ...

    def hint(self) -> str:
        """Return the one thing to change if steps wait for batches."""
        ...

    def report(self, step: int) -> Mapping[str, float]:
        """Return numbers for the log about the data of the first `step` steps.

        Called on all ranks at the same steps. Raises `ValueError`, on all ranks, when the data
        is not good enough to go on.
        """
        ...

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold besides the step, the same on every rank."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned when the checkpoint was written."""
        ...


class VerificationRecord(Protocol):
    """The result of one verification set."""

    @property
    def name(self) -> str:
        """Name of the set."""
        ...

    @property
    def accuracy(self) -> float:
        """Flip-averaged accuracy, 0 … 1."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Return all numbers as plain values."""
        ...

    def summary(self) -> str:
        """Return one line for the log."""
        ...


Embed = Callable[[Tensor], Tensor]
Verify = Callable[[Embed], Sequence[VerificationRecord]]
