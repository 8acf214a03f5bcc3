"""What a loss is: a function of three numbers per sample.

The passes reduce all of a sample's negatives to one number, the log-sum-exp of their logits. A
loss is a function of that, of the cosine with the target centre and of the embedding's norm;
autograd on those 3·N numbers gives the derivatives from which every gradient of the step follows.
No loss ever sees a logits matrix.

Shapes: N samples; S of them whose negatives count, which is all N unless a loss says otherwise
(D-Softmax-B); k running statistics.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from recognition.head.choices import check, check_at_least


@dataclass(frozen=True)
class LossInputs:
    """What a loss is given for each sample and its target class."""

    target_cosine: Tensor  # float32 [N], with the target centre, before any margin
    norm: Tensor  # float32 [N], of the embedding before it was normalised
    running: Tensor  # float32 [k], the loss's running statistics, `Loss.initial` at first


@dataclass(frozen=True)
class Curriculum:
    """How hard negatives count for more: a cosine c above a sample's bound becomes `c·(t + c)`."""

    bound: Tensor  # float32 [N], cosine above which a negative of the sample is hard
    boost: Tensor  # float32 [N], t of the sample

    def pick(self, sample_S: Tensor) -> "Curriculum":
        """Return the curriculum of some of the samples, int64 [S]."""
        return Curriculum(self.bound[sample_S], self.boost[sample_S])

    @classmethod
    def concatenate(cls, curricula: Sequence["Curriculum"]) -> "Curriculum":
        """Return one curriculum of the samples of several."""
        bounds, boosts = zip(*((each.bound, each.boost) for each in curricula), strict=True)
        return cls(torch.cat(bounds), torch.cat(boosts))


@dataclass(frozen=True)
class SampleWeights:
    """How much each sample's terms count; each sums to 1 over the global batch."""

    target: Tensor  # float32 [N]; 0 for a sample whose target class takes no part in the step
    negatives: Tensor  # float32 [S]


class Loss:
    """A loss over each sample's target class and its negatives. Subclass to add one."""

    initial: tuple[float, ...] = ()  # running statistics before the first step
    centres_per_class: int = 1  # K; a class's cosine is that of the nearest of its K centres
    batch_rate: float = 1.0  # fraction of the batch whose negatives count, in (0, 1]
    has_curriculum: bool = False  # whether `curriculum` returns one
    has_norm_gradient: bool = False  # whether there is a derivative by the embeddings' norms

    def observe(self, inputs: LossInputs) -> Tensor:
        """Return the running statistics, float32 [k], after `inputs` of the global batch."""
        return inputs.running

    def curriculum(self, inputs: LossInputs) -> Curriculum | None:
        """Return which negatives count for more, or None if none does."""
        return None

    def total(
        self, negative_lse_S: Tensor, inputs: LossInputs, weights: SampleWeights, scale: float
    ) -> Tensor:
        """Return the weighted loss of the samples: float32 scalar.

        `negative_lse_S` is the log-sum-exp of `scale·cos` over a sample's negatives, −inf for a
        sample without any.
        """
        raise NotImplementedError(f"{type(self).__name__} must define total()")


class MarginSoftmax(Loss):
    """Cross entropy of the softmax with a margin on the target class. Subclasses give the margin.

    Equals `F.cross_entropy(scale * margin(normalize(x) @ normalize(w).T), y)`, the margin applied
    to the target class only.
    """

    def margin(self, inputs: LossInputs) -> Tensor:
        """Return the target cosines with margin: float [N], in the dtype of the cosines."""
        raise NotImplementedError(f"{type(self).__name__} must define margin()")

    def penalty(self, inputs: LossInputs) -> Tensor | None:
        """Return what is added to each sample's loss, float [N], or None for nothing."""
        return None

    def total(
        self, negative_lse_S: Tensor, inputs: LossInputs, weights: SampleWeights, scale: float
    ) -> Tensor:
        """Return the weighted cross entropy; see `Loss.total`.

        With z the log-sum-exp of the negatives' logits and t the target logit,
        `log(e^t + e^z) − t = log(1 + e^(z − t))`: it neither overflows nor saturates, and a loss
        near zero keeps its digits. A sample without negatives (z = −inf) has loss 0 and no
        gradient.
        """
        loss_N = F.softplus(negative_lse_S - scale * self.margin(inputs))
        penalty_N = self.penalty(inputs)
        if penalty_N is not None:
            loss_N = loss_N + penalty_N
        return (loss_N * weights.target).sum()


@dataclass(frozen=True)
class Derivatives:
    """A loss's value and its derivatives."""

    loss: Tensor  # float32 scalar
    negatives: Tensor  # float32 [S], by the negatives' log-sum-exp
    target_cosine: Tensor  # float32 [N]
    norm: Tensor  # float32 [N]; zeros for a loss that does not depend on it


def differentiate(
    loss: Loss, negative_lse_S: Tensor, inputs: LossInputs, weights: SampleWeights, scale: float
) -> Derivatives:
    """Return the loss and its derivatives by each sample's three numbers."""
    negative_lse_S = negative_lse_S.detach().requires_grad_()
    cosine_N = inputs.target_cosine.detach().requires_grad_()
    norm_N = inputs.norm.detach().requires_grad_()
    with torch.enable_grad():
        inputs = replace(inputs, target_cosine=cosine_N, norm=norm_N)
        total = loss.total(negative_lse_S, inputs, weights, scale)
        derivatives = torch.autograd.grad(
            total, (negative_lse_S, cosine_N, norm_N), materialize_grads=True
        )
    return Derivatives(total.detach(), *derivatives)


def check_option(option: str, value: float, least: float) -> None:
    """Raise `ValueError` unless a loss's option is finite and at least `least`."""
    check_at_least(f"loss option {option}", value, least)


def check_above(option: str, value: float, bound: float) -> None:
    """Raise `ValueError` unless a loss's option is finite and above `bound`."""
    holds = math.isfinite(value) and value > bound
    check(holds, f"loss option {option}", value, f"a finite number above {bound}")


def check_fraction(option: str, value: float) -> None:
    """Raise `ValueError` unless a loss's option is in (0, 1]."""
    check(0.0 < value <= 1.0, f"loss option {option}", value, f"0 < {option} <= 1")
