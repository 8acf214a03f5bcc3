"""What several of these tests ask of the head's own parts."""

import torch

from recognition.head import SAMPLINGS
from recognition.head.sampling import SampleRequest


def active_classes(
    sampling: str, labels: torch.Tensor, classes: int, rate: float, seed: int, step: int
) -> torch.Tensor:
    """Return the ids of the classes that take part in a step, over all ranks: int64."""
    request = SampleRequest(labels, 0, classes, classes, rate, seed, step)
    rows = SAMPLINGS[sampling](request).rows
    return torch.arange(rows.count) if rows.index is None else rows.index
