"""What several tests of the head share."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from recognition.distributed import shard_range
from recognition.head.online_softmax.global_loss import pick_samples
from recognition.head.placement.collectives import GatheredBatch
from recognition.head.placement.table import Table
from recognition.head.sampling.build import SAMPLINGS
from recognition.head.sampling.rule import Sampler, SampleRequest, TableReader

LABEL_RULES = [name for name in SAMPLINGS if name not in ("hash_forest", "hard_negative")]


def active_classes(
    sampling: str, labels: Tensor, classes: int, rate: float, seed: int, step: int
) -> Tensor:
    """Return the ids of the classes that take part in a step, over all ranks: int64."""
    request = SampleRequest(labels, 0, classes, classes, rate, seed, step)
    rows = SAMPLINGS[sampling]()(request).rows
    return torch.arange(rows.count) if rows.index is None else rows.index


def picked_samples(rate: float, sizes: Sequence[int], seed: int, step: int) -> Tensor:
    """Return the positions in the global batch of the samples whose negatives count: int64.

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


def reader(weight_LKd: Tensor) -> TableReader:
    """Return the centres as a sampling rule reads them."""
    return TableReader(Table(weight_LKd.flatten(1), {}), weight_LKd.shape[2])


@dataclass(frozen=True)
class Scene:
    """Centres [C, K, d] in groups, as after training, and samples near their target centres."""

    weight: Tensor
    unit: Tensor
    labels: Tensor

    def cosines(self) -> Tensor:
        """Return the cosine of every sample and class: float64 [N, C]."""
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
            reader(self.weight[start:stop]),
        )

    def active(
        self,
        sampler: Sampler,
        rate: float,
        *,
        rank: int = 0,
        ranks: int = 1,
        step: int = 0,
    ) -> Tensor:
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
    offset = torch.randn(classes, centres, size, generator=generator)
    norm = 0.5 + torch.rand(classes, centres, 1, generator=generator)
    weight = norm * (group[of_class].unsqueeze(1) + offset)
    labels = torch.randint(classes, (samples,), generator=generator)
    labels[-1] = labels[0]
    noise = 0.5 * torch.randn(samples, size, generator=generator)
    unit = F.normalize(F.normalize(weight[labels, 0]) * size**0.5 + noise)
    return Scene(weight, unit, labels)
