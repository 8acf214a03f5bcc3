"""The loss of a global batch over a table that is cut over the ranks.

Shapes: W ranks, N samples of the global batch, L rows of this rank's table, d embedding size.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from recognition.head.exchange import Exchange
from recognition.head.objective import Objective, mean_and_derivatives
from recognition.head.rows import RowSet
from recognition.head.settings import StreamSettings
from recognition.head.streaming import (
    CentreLoss,
    combine_statistics,
    negative_statistics,
    own_unit_centres,
)


@dataclass(frozen=True)
class ShardedLoss:
    """The loss and all that its gradients need, on this rank.

    Attributes:
        loss: float32 scalar, mean over the global batch; equal on all ranks.
        cosine_positive: float32 scalar, mean cosine with the own centre; equal on all ranks.
        centre_loss: what the second pass needs for this rank's centres.
        embedding_gradient: this rank's share of the derivative by the normalised embeddings,
            float32 [N, d]; the ranks' shares add up to it. None if it was not asked for.
    """

    loss: torch.Tensor
    cosine_positive: torch.Tensor
    centre_loss: CentreLoss
    embedding_gradient: torch.Tensor | None


@torch.no_grad()
def sharded_loss(
    unit_Nd: torch.Tensor,
    own_N: torch.Tensor,
    weight_Ld: torch.Tensor,
    rows: RowSet,
    objective: Objective,
    how: StreamSettings,
    exchange: Exchange,
    *,
    keep: bool,
    with_embedding_gradient: bool,
) -> ShardedLoss:
    """Make the first pass over this rank's rows and combine it with the other ranks'.

    Equals, for the margin softmax and with `w` the active rows of all ranks,

        F.cross_entropy(scale * margin(unit_Nd @ normalize(w).T), y)

    with the margin on the own class only. Collective: one all-gather of [3, N].

    Args:
        unit_Nd: normalised embeddings of the global batch, float32.
        own_N: int64, row of each sample's own class in this rank's table, −1 if elsewhere. On
            the rank that holds it, that row must be among `rows`.
        weight_Ld: this rank's centres, float32.
        rows: this rank's active rows.
        objective: each sample's loss from its negatives and its own cosine.
        how: scale, filter, budgets, product dtype.
        exchange: the ranks.
        keep: whether a second pass will follow, so that products are worth keeping.
        with_embedding_gradient: whether the embeddings need a gradient.
    """
    negatives = negative_statistics(
        unit_Nd, own_N, weight_Ld, rows, how, with_pull=with_embedding_gradient, keep=keep
    )
    own_unit_Nd = own_unit_centres(weight_Ld, own_N)
    cosine_N = (unit_Nd * own_unit_Nd).sum(1)
    gathered_W3N = exchange.gather_statistics(
        torch.stack([negatives.peak, negatives.mass, cosine_N])
    )
    log2_total_N = combine_statistics(gathered_W3N[:, 0], gathered_W3N[:, 1])
    cosine_N = gathered_W3N[:, 2].sum(0)
    loss, by_negatives_N, by_cosine_N = mean_and_derivatives(
        objective, log2_total_N * math.log(2.0), cosine_N
    )
    negative_N = by_negatives_N * how.scale
    # Where there is no negative at all its slope is zero, whatever finite number stands here.
    log2_total_N = log2_total_N.masked_fill(log2_total_N.isneginf(), 0.0)
    gradient_Nd = negatives.pull
    if gradient_Nd is not None:
        weight_N = negative_N * torch.exp2(negatives.peak - log2_total_N)
        gradient_Nd.mul_(weight_N.unsqueeze(1)).addcmul_(own_unit_Nd, by_cosine_N.unsqueeze(1))
    return ShardedLoss(
        loss=loss,
        cosine_positive=cosine_N.mean(),
        centre_loss=CentreLoss(
            rows, unit_Nd, own_N, log2_total_N, negative_N, by_cosine_N, negatives.product
        ),
        embedding_gradient=gradient_Nd,
    )


Backward = Callable[[torch.Tensor], torch.Tensor | None]
"""Takes the derivative by the loss (scalar), returns the gradient of the embeddings, or None."""


def attach_backward(
    embeddings: torch.Tensor, loss: torch.Tensor, backward: Backward
) -> torch.Tensor:
    """Return `loss` such that its backward pass calls `backward` once for `embeddings`' gradient.

    It can be differentiated where `embeddings` cannot, so that centres train on a frozen
    backbone too.
    """
    anchor = torch.zeros((), device=loss.device, requires_grad=True)
    attached: torch.Tensor = _Attached.apply(embeddings, anchor, loss, backward)
    return attached


class _Attached(torch.autograd.Function):
    """The identity on a loss that was computed beside autograd."""

    @staticmethod
    def forward(
        ctx: Any,
        embeddings: torch.Tensor,
        anchor: torch.Tensor,
        loss: torch.Tensor,
        backward: Backward,
    ) -> torch.Tensor:
        ctx.backward_once = backward
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, grad_loss: torch.Tensor) -> tuple[torch.Tensor | None, None, None, None]:
        backward, ctx.backward_once = ctx.backward_once, None
        if backward is None:
            raise ValueError(
                "the head's loss went backward twice, which would count its centres' gradient "
                "twice: make one backward pass for each forward pass"
            )
        return backward(grad_loss), None, None, None
