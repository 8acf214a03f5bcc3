"""What a forward pass of a head, or of several, returns."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class HeadOutput:
    """What a forward pass of the head returns.

    The host waits for a GPU to learn how many classes a sampling rule took, unless `prefetch` has
    found out, and, for `placement="host"`, for the rows; for nothing else.
    """

    loss: Tensor  # float32 scalar, mean over the global batch, equal on all ranks; has a gradient
    active_classes: int  # of this rank
    # For the log, by name: scalars on the head's device, or numbers. Whoever logs writes all of
    # them, so a new figure is one line where they are made.
    figures: dict[str, Tensor | float]
    # Of those that are means over some of the samples alone, by name: how large a part of the
    # global batch these are, in (0, 1].
    fractions: Mapping[str, float] = field(default_factory=dict)
