"""The loss of a global batch, of classes that are cut over the ranks or copied to each.

Shapes: W ranks, N samples of the global batch, M that this rank works on (N where classes are
sharded, its own where they are replicated), S of them whose negatives are looked at, U the
others, d embedding size.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from recognition.head.hashing import class_hash
from recognition.head.losses.base import Loss, Own, Shares, differentiate
from recognition.head.online_softmax.backward import CentreLoss, TargetGradients
from recognition.head.online_softmax.forward import (
    NegativeStatistics,
    Samples,
    combine_statistics,
    negative_statistics,
    target_centres,
)
from recognition.head.online_softmax.stream import BlockStream
from recognition.head.placement.collectives import AnyExchange, Batch
from recognition.head.rows import RowSet


@dataclass(frozen=True)
class GlobalLoss:
    """The loss and all that its gradients need, on this rank.

    Attributes:
        loss: float32 scalar, mean over the global batch; equal on all ranks.
        cosine_positive: float32 scalar, mean cosine with the own centre; equal on all ranks.
        running: float32 [k], the loss's running statistics with this batch in them.
        centre_loss: what the second pass needs for this rank's centres.
        unit_gradient: this rank's share of the derivative by the normalised embeddings, float32
            [M, d]; the shards' shares add up to it. None if it was not asked for.
        norm_gradient: derivative by the norms of the embeddings, float32 [M].
    """

    loss: torch.Tensor
    cosine_positive: torch.Tensor
    running: torch.Tensor
    centre_loss: CentreLoss
    unit_gradient: torch.Tensor | None
    norm_gradient: torch.Tensor


@dataclass(frozen=True)
class Picked:
    """The samples whose negatives are looked at.

    Attributes:
        sample: int64 [S], ascending; None for all of them.
        total: how many are picked over all ranks.
    """

    sample: torch.Tensor | None
    total: int


@torch.no_grad()
def global_loss(
    batch: Batch,
    own_M: torch.Tensor,
    stream: BlockStream,
    rows: RowSet,
    loss: Loss,
    running: torch.Tensor,
    exchange: AnyExchange,
    sizes: Sequence[int],
    picked: Picked,
    *,
    keep: bool,
    with_embedding_gradient: bool,
) -> GlobalLoss:
    """Make the first pass over this rank's rows and combine it with the other ranks'.

    Equals, for the margin softmax and with `w` the active rows of all ranks,

        F.cross_entropy(scale * margin(unit @ normalize(w).T), y, ignore_index=inactive)

    with the margin on the own class only; samples whose own class takes no part are ignored (0 if
    that is all of them). Collectives, where classes are sharded: two all-gathers, of [2, M] each.

    Args:
        batch: the samples that this rank works on.
        own_M: int64, row of each sample's own class in this rank's table, −1 if elsewhere.
        stream: this rank's centres.
        rows: this rank's active rows.
        loss: what is computed.
        running: float32 [k], the loss's running statistics so far.
        exchange: the ranks.
        sizes: their batch sizes.
        picked: the samples whose negatives are looked at.
        keep: whether a second pass will follow, so that products are worth keeping.
        with_embedding_gradient: whether the embeddings need a gradient.
    """
    nearest = target_centres(stream.table, batch.unit, own_M)
    active_M = (rows.positions(own_M) >= 0).float()
    cosine_M, active_M = exchange.gather_statistics(torch.stack([nearest.cosine, active_M])).sum(0)
    own = _observe(loss, Own(cosine_M, batch.norm, running), exchange, sizes)
    curriculum = loss.curriculum(own)

    samples = Samples(batch.unit, own_M, curriculum)
    if picked.sample is not None:
        at = picked.sample
        hard = None if curriculum is None else curriculum.pick(at)
        samples = Samples(batch.unit[at], own_M[at], hard)
    width = exchange.width(sizes)
    negatives, kept = negative_statistics(
        stream, samples, rows, block_samples=width, with_grad=with_embedding_gradient, keep=keep
    )
    statistics_2S = torch.stack([negatives.running_max, negatives.sum_exp])
    gathered_W2S = exchange.gather_statistics(statistics_2S)
    log2_total_S = combine_statistics(gathered_W2S[:, 0], gathered_W2S[:, 1])

    contributing = exchange.over_samples(active_M.sum()).clamp_min(1.0)
    even_S = torch.full_like(log2_total_S, 1.0 / picked.total)
    shares = Shares(active_M / contributing, even_S)
    by = differentiate(loss, log2_total_S * math.log(2.0), own, shares, stream.settings.scale)
    negative_S = by.negatives * stream.settings.scale
    # Where there is no negative at all its slope is zero, whatever finite number stands here.
    log2_total_S = log2_total_S.masked_fill(log2_total_S.isneginf(), 0.0)

    targets = TargetGradients(batch.unit, own_M, nearest.centre, by.cosine)
    return GlobalLoss(
        loss=exchange.over_samples(by.loss),
        cosine_positive=exchange.over_samples(cosine_M.sum()) / sum(sizes),
        running=own.running,
        centre_loss=CentreLoss(rows, samples, log2_total_S, negative_S, targets, kept, width),
        unit_gradient=_unit_gradient(
            negatives, negative_S, log2_total_S, nearest.unit, by.cosine, picked
        ),
        norm_gradient=by.norm,
    )


def _observe(loss: Loss, own: Own, exchange: AnyExchange, sizes: Sequence[int]) -> Own:
    """Return `own` with running statistics that have seen the global batch."""
    if not loss.initial:
        return own
    everyone = replace(
        own,
        cosine=exchange.everyones(own.cosine, sizes),
        norm=exchange.everyones(own.norm, sizes),
    )
    running = loss.observe(everyone)
    # A number that is not finite must not stay for ever: its step will be refused or skipped.
    return replace(own, running=torch.where(running.isfinite().all(), running, own.running))


def _unit_gradient(
    negatives: NegativeStatistics,
    negative_S: torch.Tensor,
    log2_total_S: torch.Tensor,
    own_unit_Md: torch.Tensor,
    by_cosine_M: torch.Tensor,
    picked: Picked,
) -> torch.Tensor | None:
    """Return the derivative by the unit embeddings, [M, d], if its sums were made: overwrites them.

    What negatives pull a sample, by this shard, and what its own centre does.
    """
    gradient = negatives.grad_unit
    if gradient is None:
        return None
    gradient.mul_((negative_S * torch.exp2(negatives.running_max - log2_total_S)).unsqueeze(1))
    if picked.sample is not None:
        gradient = torch.zeros_like(own_unit_Md).index_copy_(0, picked.sample, gradient)
    return gradient.addcmul_(own_unit_Md, by_cosine_M.unsqueeze(1))


def pick_samples(rate: float, batch: Batch, sizes: Sequence[int], seed: int, step: int) -> Picked:
    """Return the samples whose negatives count: those of the smallest hashes of (step, place).

    `ceil(rate·M)` of the M samples that a rank works on, `M` being the global batch where classes
    are sharded, so that the choice does not know the number of ranks there.
    """
    samples = len(batch.label)
    if rate == 1.0:
        return Picked(None, sum(sizes))
    whole = samples == sum(sizes)
    total = sum(math.ceil(rate * size) for size in ([samples] if whole else sizes))
    place_M = torch.arange(batch.first, batch.first + samples, device=batch.label.device)
    hash_M = class_hash(place_M, -1 - seed, step)  # the negative seed: not the active set's hashes
    count = math.ceil(rate * samples)
    return Picked(hash_M.topk(count, largest=False).indices.sort().values, total)


Backward = Callable[[torch.Tensor], tuple[torch.Tensor | None, torch.Tensor | None]]
"""Takes the derivative by the loss (scalar), returns those by unit embeddings and norms."""


def attach_backward(
    unit: torch.Tensor, norm: torch.Tensor, loss: torch.Tensor, backward: Backward
) -> torch.Tensor:
    """Return `loss` such that its backward pass calls `backward` once for the two gradients.

    It can be differentiated where the embeddings cannot, so that centres train on a frozen
    backbone too.
    """
    anchor = torch.zeros((), device=loss.device, requires_grad=True)
    attached: torch.Tensor = _Attached.apply(unit, norm, anchor, loss, backward)
    return attached


class _Attached(torch.autograd.Function):
    """The identity on a loss that was computed beside autograd."""

    @staticmethod
    def forward(
        ctx: Any,
        unit: torch.Tensor,
        norm: torch.Tensor,
        anchor: torch.Tensor,
        loss: torch.Tensor,
        backward: Backward,
    ) -> torch.Tensor:
        ctx.backward_once = backward
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, grad_loss: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        backward, ctx.backward_once = ctx.backward_once, None
        if backward is None:
            raise ValueError(
                "the head's loss went backward twice, which would count its centres' gradient "
                "twice: make one backward pass for each forward pass"
            )
        by_unit, by_norm = backward(grad_loss)
        return by_unit, by_norm, None, None, None
