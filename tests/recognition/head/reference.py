"""The definition of the head: dense, float64, one process, plain PyTorch and autograd.

Nothing here is shared with the code under test, the losses' formulas included.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class LossCase:
    """A loss by name and options, as `build_loss` takes them, and its formula."""

    name: str
    options: dict[str, float | bool] = field(default_factory=dict)

    @property
    def centres(self) -> int:
        return int(self.options.get("k", 1))

    def running(self) -> list[float]:
        return {"adaface": [20.0, 100.0], "curricularface": [0.0]}.get(self.name, [])

    def observe(self, running: list[float], cosine: Tensor, norm: Tensor) -> list[float]:
        alpha = float(self.options.get("alpha", 0.01))
        if self.name == "adaface":
            norm = norm.clamp(0.001, 100)
            seen = [norm.mean().item(), norm.std().item()]
        elif self.name == "curricularface":
            seen = [cosine.mean().item()]
        else:
            seen = []
        return [(1 - alpha) * old + alpha * new for old, new in zip(running, seen, strict=True)]

    def margin(self, cosine: Tensor, norm: Tensor, running: Sequence[float] = ()) -> Tensor:
        """Return the target cosines with margin."""
        option = self.options
        if self.name == "softmax":
            return cosine
        if self.name == "cosface":
            return cosine - option["m"]
        angle = torch.acos(cosine)
        if self.name == "adaface":
            norm = norm.detach().clamp(0.001, 100)
            quality = (norm - running[0]) / (running[1] + 0.001) * option.get("h", 0.333)
            quality = quality.clamp(-1, 1)
            shifted = (angle - option["m"] * quality).clamp_min(0)
            return _fold(shifted) - option["m"] * (1 + quality)
        if self.name == "magface":
            fraction = (norm.clamp(10, 110) - 10) / 100
            return _fold(angle + 0.45 + (0.8 - 0.45) * fraction)
        m1, m3 = option.get("m1", 1.0), option.get("m3", 0.0)
        value = _fold(m1 * angle + option.get("m2", option.get("m", 0.0))) - m3
        return cosine + (value - cosine).detach() if option.get("detached") else value

    def total(
        self,
        cosine: Tensor,
        is_target: Tensor,
        left_out: Tensor,
        norm: Tensor,
        running: Sequence[float],
        scale: float,
        picked: Tensor,
    ) -> Tensor:
        """Return the mean loss; `is_target` and `left_out` are bool [N, C], `picked` bool [N]."""
        present = (is_target & ~left_out).any(1)
        target_cosine = cosine[is_target]
        negatives = cosine
        if self.name == "curricularface":
            bound = self.margin(target_cosine, norm).detach().unsqueeze(1)
            negatives = torch.where(cosine > bound, cosine * (running[0] + cosine), cosine)
        if self.name == "d_softmax":
            intra = torch.log1p(torch.exp(scale * (self.options["d"] - target_cosine)))
            absent = (left_out | is_target)[picked]
            inter = torch.log1p(torch.exp(scale * negatives[picked]).masked_fill(absent, 0).sum(1))
            return (intra * present).sum() / max(int(present.sum()), 1) + inter.mean()
        with_margin = self.margin(target_cosine, norm, running).unsqueeze(1)
        logits = scale * torch.where(is_target, with_margin, negatives)
        loss = F.cross_entropy(
            logits.masked_fill(left_out & ~is_target, -math.inf),
            is_target.int().argmax(1),
            reduction="none",
        )
        if self.name == "magface":
            norm = norm.clamp(10, 110)
            loss = loss + self.options["regulariser"] * (norm / 110**2 + 1 / norm)
        return (loss * present).sum() / max(int(present.sum()), 1)


def _fold(angle: Tensor) -> Tensor:
    """Return the cosine, continued so that it falls beyond pi and beyond twice that."""
    value = torch.cos(angle)
    value = torch.where(angle > math.pi, -torch.cos(angle) - 2.0, value)
    return torch.where(angle > 2.0 * math.pi, torch.cos(angle) - 4.0, value)


COSFACE = LossCase("cosface", {"m": 0.4})
MARGIN_CASES = [
    LossCase("softmax"),
    COSFACE,
    LossCase("arcface", {"m": 0.5}),
    LossCase("arcface", {"m": 0.5, "detached": True}),
    LossCase("combined", {"m1": 1.7, "m2": 0.3, "m3": 0.2}),
]
ADAFACE = LossCase("adaface", {"m": 0.4, "h": 0.5, "alpha": 0.7})
MAGFACE = LossCase("magface", {"regulariser": 35.0})
CURRICULARFACE = LossCase("curricularface", {"m": 0.5, "alpha": 0.6})
SUBCENTER = LossCase("subcenter_arcface", {"m": 0.5, "k": 3})
D_SOFTMAX = LossCase("d_softmax", {"d": 0.9})
D_SOFTMAX_B = LossCase("d_softmax", {"d": 0.8, "batch_rate": 0.4})
LOSS_CASES = [*MARGIN_CASES, ADAFACE, MAGFACE, CURRICULARFACE, SUBCENTER, D_SOFTMAX, D_SOFTMAX_B]


class DenseHead:
    """`F.cross_entropy(scale * margin(normalize(x) @ normalize(w).T), y)` and SGD on its rows."""

    def __init__(
        self,
        weight: Tensor,
        loss: LossCase,
        *,
        scale: float = 64.0,
        inter_class_filter: float | None = None,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
    ) -> None:
        self.weight = weight.detach().double().clone()
        self.velocity = torch.zeros_like(self.weight)
        self.loss = loss
        self.running = loss.running()
        self.scale = scale
        self.inter_class_filter = inter_class_filter
        self.momentum = momentum
        self.weight_decay = weight_decay

    def loss_and_gradients(
        self,
        x: Tensor,
        y: Tensor,
        active: Tensor,
        picked: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the mean loss and its gradients by `x` [N, d] and by the weight [C, K·d].

        `active` are class ids, `picked` the samples (all unless given) whose negatives count.
        """
        x = x.detach().double().requires_grad_()
        weight = self.weight.clone().requires_grad_()
        is_target = F.one_hot(y, len(weight)).bool()
        centres = F.normalize(weight.view(-1, x.shape[1]))
        cosine = (F.normalize(x) @ centres.T).view(len(x), len(weight), -1).amax(2)
        norm = x.norm(dim=1)
        self.running = self.loss.observe(self.running, cosine[is_target].detach(), norm.detach())
        left_out = torch.ones(len(weight), dtype=torch.bool).index_fill_(0, active, False)
        left_out = left_out.expand_as(is_target)
        if self.inter_class_filter is not None:
            left_out = left_out | ((cosine > self.inter_class_filter) & ~is_target)
        chosen = torch.zeros(len(x), dtype=torch.bool)
        chosen[slice(None) if picked is None else picked] = True
        loss = self.loss.total(cosine, is_target, left_out, norm, self.running, self.scale, chosen)
        by_x, by_weight = torch.autograd.grad(loss, (x, weight))
        return loss.detach(), by_x, by_weight

    def step(self, gradient: Tensor, active: Tensor, lr: float) -> None:
        """Update the active rows alone."""
        rows = gradient[active] + self.weight_decay * self.weight[active]
        self.velocity[active] = self.momentum * self.velocity[active] + rows
        self.weight[active] -= lr * self.velocity[active]


def make_batches(
    weight: Tensor, sizes: Sequence[int], steps: int, seed: int
) -> list[tuple[Tensor, Tensor]]:
    """Return `steps` global batches of `sum(sizes)` samples, with labels that repeat.

    Sample 0 is nearly opposite to its centre, so that an angular margin takes it beyond pi, and
    sample 1 is close to its centre; the others are random, with various norms.
    """
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(steps):
        total, size = sum(sizes), weight.shape[1]
        x = torch.randn(total, size, generator=generator)
        x *= torch.rand(total, 1, generator=generator) * 25.0 + 0.5
        y = torch.randint(0, len(weight), (total,), generator=generator)
        y[-1] = y[2]
        noise = torch.randn(2, size, generator=generator)
        x[0] = -100.0 * weight[y[0]] + 0.2 * noise[0]
        x[1] = 100.0 * weight[y[1]] + 0.2 * noise[1]
        batches.append((x, y))
    return batches
