"""What the trainer needs of a loader."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol


class BatchSource(Protocol):
    """Delivers this rank's micro-batches. Lives in `data/`, which the trainer may not import."""

    def batches(self, first_step: int, last_step: int) -> Iterator[Any]:
        """Return `accumulation` micro-batches for each of steps `first_step … last_step - 1`."""
        ...

    def hint(self) -> str:
        """Return the one thing to change if steps wait for batches."""
        ...

    def report(self, step: int) -> Mapping[str, float]:
        """Return figures for the log about the data of the first `step` steps.

        Called on all ranks at the same steps. Raises `ValueError`, on all ranks, when the data
        is not good enough to continue.
        """
        ...

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold besides the step; the same on every rank."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned when the checkpoint was written."""
        ...
