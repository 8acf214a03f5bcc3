"""What several of these tests ask of the head's own parts."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from recognition.distributed import shard_range
from recognition.head.online_softmax.global_loss import pick_samples
from recognition.head.placement.collectives import GatheredBatch
from recognition.head.sampling.by_labels import LABEL_RULES, ActiveSet, SampleRequest


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
        label = torch.zeros(size, dtype=torch.int64)
        batch = GatheredBatch(nothing, nothing, label, nothing, first, sizes)
        sample = pick_samples(rate, batch, seed, step).sample
        picked.append(first + (torch.arange(size) if sample is None else sample))
        first += size
    return torch.cat(picked)


@dataclass(frozen=True)
class Centres:
    """A table of centres, [L, K, d], to be read block by block."""

    weight: torch.Tensor

    @property
    def rows(self) -> int:
        return len(self.weight)

    def blocks(self, size: int) -> Iterator[tuple[int, int, torch.Tensor]]:
        for start in range(0, self.rows, size):
            stop = min(start + size, self.rows)
            yield start, stop, self.weight[start:stop]


@dataclass(frozen=True)
class Scene:
    """Trained-looking centres [C, K, d] in groups, and a batch of which each is near its own."""

    weight: torch.Tensor
    unit: torch.Tensor
    labels: torch.Tensor

    def cosines(self) -> torch.Tensor:
        """Return what every sample and class have: float64 [N, C]."""
        centres = F.normalize(self.weight.double(), dim=2)
        return torch.einsum("nd,ckd->nck", self.unit.double(), centres).amax(2)

    def request(
        self, rate: float, *, rank: int = 0, ranks: int = 1, seed: int = 0, step: int = 0
    ) -> SampleRequest:
        """Return the request of one of several ranks."""
        start, stop = shard_range(len(self.weight), ranks, rank)
        return SampleRequest(
            self.labels,
            start,
            stop,
            len(self.weight),
            rate,
            seed,
            step,
            self.unit,
            Centres(self.weight[start:stop]),
        )

    def active(
        self,
        sampler: Callable[[SampleRequest], ActiveSet],
        rate: float,
        *,
        rank: int = 0,
        ranks: int = 1,
        step: int = 0,
    ) -> torch.Tensor:
        """Return the ids of one rank's active classes."""
        request = self.request(rate, rank=rank, ranks=ranks, step=step)
        rows = sampler(request).rows
        local = torch.arange(rows.count) if rows.index is None else rows.index
        assert (local[1:] > local[:-1]).all()
        return request.start + local


def scene(
    classes: int = 3000, samples: int = 24, centres: int = 1, size: int = 32, seed: int = 0
) -> Scene:
    """Return classes in groups of some 30 that resemble each other, and a batch with repeats."""
    generator = torch.Generator().manual_seed(seed)
    group = torch.randn(max(1, classes // 30), size, generator=generator)
    of_class = torch.randint(len(group), (classes,), generator=generator)
    own = torch.randn(classes, centres, size, generator=generator)
    norm = 0.5 + torch.rand(classes, centres, 1, generator=generator)
    weight = norm * (group[of_class].unsqueeze(1) + own)
    labels = torch.randint(classes, (samples,), generator=generator)
    labels[-1] = labels[0]
    noise = 0.5 * torch.randn(samples, size, generator=generator)
    unit = F.normalize(F.normalize(weight[labels, 0]) * size**0.5 + noise)
    return Scene(weight, unit, labels)
