"""The definition of the head: dense, float64, one process, plain PyTorch and autograd.

Nothing here is shared with the code under test, the margins' formulas included.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class MarginCase:
    """A margin by name, for `build_margin`, and by its formula's numbers."""

    name: str
    options: dict[str, float | bool] = field(default_factory=dict)
    m1: float = 1.0
    m2: float = 0.0
    m3: float = 0.0

    def dense(self, cosine: torch.Tensor) -> torch.Tensor:
        if self.m1 == 1.0 and self.m2 == 0.0:
            return cosine - self.m3
        angle = self.m1 * torch.acos(cosine) + self.m2
        value = torch.cos(angle) - self.m3
        beyond, twice = angle > math.pi, angle > 2.0 * math.pi
        value = torch.where(beyond, -torch.cos(angle) - 2.0 - self.m3, value)
        value = torch.where(twice, torch.cos(angle) - 4.0 - self.m3, value)
        return cosine + (value - cosine).detach() if self.options.get("detached") else value


MARGIN_CASES = [
    MarginCase("softmax"),
    MarginCase("cosface", {"m": 0.4}, m3=0.4),
    MarginCase("arcface", {"m": 0.5}, m2=0.5),
    MarginCase("arcface", {"m": 0.5, "detached": True}, m2=0.5),
    MarginCase("combined", {"m1": 1.7, "m2": 0.3, "m3": 0.2}, m1=1.7, m2=0.3, m3=0.2),
]


class DenseHead:
    """`F.cross_entropy(scale * margin(normalize(x) @ normalize(w).T), y)` and SGD on its rows."""

    def __init__(
        self,
        weight: torch.Tensor,
        margin: MarginCase,
        *,
        scale: float = 64.0,
        inter_class_filter: float | None = None,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
    ) -> None:
        self.weight = weight.detach().double().clone()
        self.velocity = torch.zeros_like(self.weight)
        self.margin = margin
        self.scale = scale
        self.inter_class_filter = inter_class_filter
        self.momentum = momentum
        self.weight_decay = weight_decay

    def loss_and_gradients(
        self, x: torch.Tensor, y: torch.Tensor, active: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the mean loss and its gradients by `x` [N, d] and by the weight [C, d]."""
        x = x.detach().double().requires_grad_()
        weight = self.weight.clone().requires_grad_()
        own = F.one_hot(y, len(weight)).bool()
        cosine = F.normalize(x) @ F.normalize(weight).T
        logits = self.scale * torch.where(own, self.margin.dense(cosine), cosine)
        left_out = torch.ones(len(weight), dtype=torch.bool).index_fill_(0, active, False) & ~own
        if self.inter_class_filter is not None:
            left_out |= (cosine > self.inter_class_filter) & ~own
        loss = F.cross_entropy(logits.masked_fill(left_out, -math.inf), y)
        by_x, by_weight = torch.autograd.grad(loss, (x, weight))
        return loss.detach(), by_x, by_weight

    def step(self, gradient: torch.Tensor, active: torch.Tensor, lr: float) -> None:
        """Update the active rows alone."""
        rows = gradient[active] + self.weight_decay * self.weight[active]
        self.velocity[active] = self.momentum * self.velocity[active] + rows
        self.weight[active] -= lr * self.velocity[active]


def make_batches(
    weight: torch.Tensor, sizes: Sequence[int], steps: int, seed: int
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return `steps` global batches of `sum(sizes)` samples, with labels that repeat.

    Sample 0 points nearly away from its centre, beyond where an angular margin passes pi, and
    sample 1 nearly along it; the others are random.
    """
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(steps):
        total, size = sum(sizes), weight.shape[1]
        x = torch.randn(total, size, generator=generator)
        y = torch.randint(0, len(weight), (total,), generator=generator)
        y[-1] = y[2]
        noise = torch.randn(2, size, generator=generator)
        x[0] = -100.0 * weight[y[0]] + 0.2 * noise[0]
        x[1] = 100.0 * weight[y[1]] + 0.2 * noise[1]
        batches.append((x, y))
    return batches
