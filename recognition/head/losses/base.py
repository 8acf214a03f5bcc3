"""What is computed from each sample's own class and its negatives.

The streaming passes reduce all of a sample's negatives to one number, the log-sum-exp of their
logits. Whatever loss is wanted is then a function of that, of the cosine with the own centre and
of the embedding's norm: 3·N numbers, and autograd on those gives the derivatives from which every
gradient of the step follows. No loss ever sees a logits matrix.

Shapes: N samples with an own class; S of them whose negatives are looked at, which is all N unless
a loss says otherwise (D-Softmax-B).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Own:
    """What a loss knows of samples and their own classes.

    Attributes:
        cosine: float32 [N], with the own centre, before any margin.
        norm: float32 [N], of the embedding before it was normalised.
        running: float32 [k], the loss's running statistics, `Loss.initial` at first.
    """

    cosine: torch.Tensor
    norm: torch.Tensor
    running: torch.Tensor


@dataclass(frozen=True)
class Curriculum:
    """How hard negatives count for more: a cosine c above a sample's bound becomes `c·(t + c)`.

    Attributes:
        bound: float32 [N], cosine above which a negative of the sample is hard.
        boost: float32 [N], t of the sample.
    """

    bound: torch.Tensor
    boost: torch.Tensor

    def pick(self, sample_S: torch.Tensor) -> "Curriculum":
        """Return the curriculum of some of the samples, int64 [S]."""
        return Curriculum(self.bound[sample_S], self.boost[sample_S])

    @classmethod
    def concatenate(cls, curricula: Sequence["Curriculum"]) -> "Curriculum":
        """Return one curriculum of the samples of several."""
        return cls(
            torch.cat([each.bound for each in curricula]),
            torch.cat([each.boost for each in curricula]),
        )


@dataclass(frozen=True)
class Shares:
    """How much each sample's terms count; each sums to 1 over the global batch.

    Attributes:
        own: float32 [N]; 0 for a sample whose own class takes no part in the step.
        negatives: float32 [S].
    """

    own: torch.Tensor
    negatives: torch.Tensor


class Loss:
    """A loss over each sample's own class and its negatives. Subclass to add one.

    Attributes:
        initial: running statistics before the first step; none for most losses.
        centres_per_class: K; a class's cosine is that of the nearest of its K centres.
        batch_rate: share of the batch whose negatives are looked at, in (0, 1].
        bends_norms: whether the loss has a derivative by the embeddings' norms.
    """

    initial: tuple[float, ...] = ()
    centres_per_class: int = 1
    batch_rate: float = 1.0
    bends_norms: bool = False

    def observe(self, own: Own) -> torch.Tensor:
        """Return the running statistics after the batch `own`, the global one: float32 [k]."""
        return own.running

    def curriculum(self, own: Own) -> Curriculum | None:
        """Return which negatives count for more, or None if none does."""
        return None

    def total(
        self, negative_lse_S: torch.Tensor, own: Own, shares: Shares, scale: float
    ) -> torch.Tensor:
        """Return the loss of these samples, weighted by their shares: float32 scalar.

        Args:
            negative_lse_S: float32, log-sum-exp of `scale·cos` over a sample's negatives; −inf
                for a sample that has none.
            own: the samples and their own classes.
            shares: how much each sample counts.
            scale: factor s of the cosines.
        """
        raise NotImplementedError(f"{type(self).__name__} must define total()")


class MarginSoftmax(Loss):
    """Cross entropy of the softmax with a margin on the own class. Subclasses give the margin.

    Equals `F.cross_entropy(scale * margin(normalize(x) @ normalize(w).T), y)`, the margin applied
    to the own class only.
    """

    def target(self, own: Own) -> torch.Tensor:
        """Return the own cosines with margin: float [N], in the dtype of `own.cosine`."""
        raise NotImplementedError(f"{type(self).__name__} must define target()")

    def penalty(self, own: Own) -> torch.Tensor | None:
        """Return what is added to each sample's loss, float [N], or None for nothing."""
        return None

    def total(
        self, negative_lse_S: torch.Tensor, own: Own, shares: Shares, scale: float
    ) -> torch.Tensor:
        """Return the weighted cross entropy; see `Loss.total`.

        With z the log-sum-exp of the negatives' logits and t the own logit,
        `log(e^t + e^z) − t = log(1 + e^(z − t))`: it neither overflows nor saturates, and a loss
        near zero keeps its digits. A sample without negatives (z = −inf) has loss 0 and no
        gradient.
        """
        loss_N = F.softplus(negative_lse_S - scale * self.target(own))
        penalty_N = self.penalty(own)
        if penalty_N is not None:
            loss_N = loss_N + penalty_N
        return (loss_N * shares.own).sum()


@dataclass(frozen=True)
class DissectedSoftmax(Loss):
    """Own class and negatives apart, see `d_softmax`."""

    d: float
    batch_rate: float

    def total(
        self, negative_lse_S: torch.Tensor, own: Own, shares: Shares, scale: float
    ) -> torch.Tensor:
        """Return the weighted sum of both parts; see `Loss.total`."""
        intra_N = F.softplus(scale * (self.d - own.cosine))
        inter_S = F.softplus(negative_lse_S)
        return (intra_N * shares.own).sum() + (inter_S * shares.negatives).sum()


def d_softmax(d: float = 0.9, batch_rate: float = 1.0) -> Loss:
    """Return D-Softmax (He et al., "Softmax Dissection", AAAI 2020, arXiv 1908.01281).

    The sum of an intra-class and an inter-class part, each with a gradient of its own:

        log(1 + exp(s·(d − cos θ_y)))  +  log(1 + Σ_{k≠y} exp(s·cos θ_k))

    D-Softmax-B is `batch_rate` below 1: the inter-class part is computed for a sampled part of the
    batch (chosen by step and place in the batch) and averaged over it. D-Softmax-K, a sampled part
    of the classes, is the sampling `random_negative`.

    Args:
        d: cosine that the own class is pulled towards, in (−1, 1].
        batch_rate: share of the batch with an inter-class part, in (0, 1].

    Raises `ValueError` when one of them is out of range.
    """
    if not -1.0 < d <= 1.0:
        raise ValueError(f"loss option d: {d} found, expected a cosine in (-1, 1]")
    if not 0.0 < batch_rate <= 1.0:
        raise ValueError(f"loss option batch_rate: {batch_rate} found, expected 0 < rate <= 1")
    return DissectedSoftmax(d, batch_rate)


@dataclass(frozen=True)
class Derivatives:
    """A loss's value and its derivatives.

    Attributes:
        loss: float32 scalar.
        negatives: float32 [S], by the negatives' log-sum-exp.
        cosine: float32 [N], by the own cosine.
        norm: float32 [N], by the embedding's norm; zeros for a loss that does not depend on it.
    """

    loss: torch.Tensor
    negatives: torch.Tensor
    cosine: torch.Tensor
    norm: torch.Tensor


def differentiate(
    loss: Loss, negative_lse_S: torch.Tensor, own: Own, shares: Shares, scale: float
) -> Derivatives:
    """Return the loss and its derivatives by each sample's three numbers."""
    negative_lse_S = negative_lse_S.detach().requires_grad_()
    cosine_N = own.cosine.detach().requires_grad_()
    norm_N = own.norm.detach().requires_grad_()
    with torch.enable_grad():
        total = loss.total(
            negative_lse_S, replace(own, cosine=cosine_N, norm=norm_N), shares, scale
        )
        by_negatives_S, by_cosine_N, by_norm_N = torch.autograd.grad(
            total, (negative_lse_S, cosine_N, norm_N), materialize_grads=True
        )
    return Derivatives(total.detach(), by_negatives_S, by_cosine_N, by_norm_N)
