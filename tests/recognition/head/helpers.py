"""What several of these tests ask of the head's own parts."""

from collections.abc import Sequence

import torch

from recognition.head.exchange import Batch
from recognition.head.global_loss import pick_samples
from recognition.head.sampling import LABEL_RULES, SampleRequest


def active_classes(
    sampling: str, labels: torch.Tensor, classes: int, rate: float, seed: int, step: int
) -> torch.Tensor:
    """Return the ids of the classes that take part in a step, over all ranks: int64."""
    request = SampleRequest(labels, 0, classes, classes, rate, seed, step)
    rows = LABEL_RULES[sampling](request).rows
    return torch.arange(rows.count) if rows.index is None else rows.index


def picked_samples(rate: float, sizes: Sequence[int], seed: int, step: int) -> torch.Tensor:
    """Return the places in the global batch of the samples whose negatives count: int64.

    `sizes` are the samples that each rank works on.
    """
    picked, first = [], 0
    for size in sizes:
        nothing = torch.zeros(size)
        batch = Batch(nothing, nothing, torch.zeros(size, dtype=torch.int64), nothing, first)
        sample = pick_samples(rate, batch, sizes, seed, step).sample
        picked.append(first + (torch.arange(size) if sample is None else sample))
        first += size
    return torch.cat(picked)
