"""D-Softmax: target class and negatives as two separate terms.

Shapes: N samples; S of them whose negatives count.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from recognition.head.choices import check
from recognition.head.losses.base import Loss, LossInputs, SampleWeights, check_fraction


@dataclass(frozen=True)
class DissectedSoftmax(Loss):
    """D-Softmax (He et al., "Softmax Dissection", AAAI 2020, arXiv 1908.01281).

    The sum of an intra-class and an inter-class term, each with a gradient of its own:

        log(1 + exp(s·(d − cos θ_y)))  +  log(1 + Σ_{k≠y} exp(s·cos θ_k))

    D-Softmax-B is `batch_rate` below 1: the inter-class term is computed for a sampled part of the
    batch (chosen by step and position in the batch) and averaged over it. D-Softmax-K, a sampled
    part of the classes, is the sampling `random_negative`.

    Args:
        d: cosine that the target class is attracted to, in (−1, 1].
        batch_rate: fraction of the batch with an inter-class term, in (0, 1].
    """

    d: float = 0.9
    batch_rate: float = 1.0

    def __post_init__(self) -> None:
        check(-1.0 < self.d <= 1.0, "loss option d", self.d, "a cosine in (-1, 1]")
        check_fraction("batch_rate", self.batch_rate)

    def total(
        self, negative_lse_S: Tensor, inputs: LossInputs, weights: SampleWeights, scale: float
    ) -> Tensor:
        """Return the weighted sum of both terms; see `Loss.total`."""
        intra_N = F.softplus(scale * (self.d - inputs.target_cosine))
        inter_S = F.softplus(negative_lse_S)
        return (intra_N * weights.target).sum() + (inter_S * weights.negatives).sum()


d_softmax = DissectedSoftmax
