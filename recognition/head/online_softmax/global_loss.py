"""The loss of a global batch, from the first pass, the loss and all ranks.

Shapes: N samples of the global batch, M that this rank works on (N where classes are sharded, its
own where they are replicated), S of them whose negatives count, d embedding size.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from recognition.head.hashing import class_hash
from recognition.head.losses.base import Derivatives, Loss, LossInputs, SampleWeights, differentiate
from recognition.head.online_softmax.backward import CentreLoss, TargetGradients
from recognition.head.online_softmax.forward import (
    NegativeStatistics,
    Samples,
    TargetCentres,
    combine_statistics,
    negative_statistics,
    target_centres,
)
from recognition.head.online_softmax.scores import Draw, score_rows
from recognition.head.online_softmax.stream import BlockStream
from recognition.head.placement.collectives import Collectives, GatheredBatch
from recognition.head.rows import RowSet, local_rows


@dataclass(frozen=True)
class GlobalLoss:
    """The loss and all that its gradients need, on this rank.

    `unit_gradient` is the derivative through this rank's classes; the ranks' add up to the whole.
    """

    loss: Tensor  # float32 scalar, mean over the global batch; equal on all ranks
    mean_cosine: Tensor  # float32 scalar, with the target centres; equal on all ranks
    running: Tensor  # float32 [k], the loss's running statistics with this batch in them
    centre_loss: CentreLoss  # what the second pass needs
    unit_gradient: Tensor | None  # float32 [M, d], by the unit embeddings, if asked for
    norm_gradient: Tensor  # float32 [M], by the norms of the embeddings


@dataclass(frozen=True)
class Picked:
    """The samples whose negatives count."""

    sample: Tensor | None  # int64 [S], ascending; None for all of them
    total: int  # over all ranks

    def of(self, samples: Samples) -> Samples:
        """Return those of some samples."""
        return samples if self.sample is None else samples.pick(self.sample)


@dataclass(frozen=True)
class GlobalSoftmax:
    """The loss of a global batch, over the active rows of all ranks.

    Equals, for the margin softmax and with `w` those rows,

        F.cross_entropy(scale * margin(unit @ normalize(w).T), y, ignore_index=inactive)

    with the margin on the target class only; samples whose target class takes no part are ignored
    (0 if that is all of them).
    """

    stream: BlockStream
    shard: tuple[int, int]  # this rank's classes, `[start, stop)`
    loss: Loss
    collectives: Collectives
    seed: int  # of the choice of samples whose negatives count

    @torch.no_grad()
    def __call__(
        self, batch: GatheredBatch, rows: RowSet, running: Tensor, step: int, *,
        keep: bool, with_grad: bool, draw: Draw | None = None,
    ) -> GlobalLoss:  # fmt: skip
        """Make the first pass over this rank's rows and combine it with the other ranks'.

        Collectives, where classes are sharded: two all-gathers, of [2, M] and [2, S].

        Args:
            batch: the samples that this rank works on.
            rows: this rank's active rows.
            running: float32 [k], the loss's running statistics so far.
            step: the head's.
            keep: whether a second pass will follow, so that exponentials are worth keeping.
            with_grad: whether the embeddings need a gradient.
            draw: chooses which rows, of all of the table, get a gradient.
        """
        collectives, scale = self.collectives, self.stream.settings.scale
        target_row_M = local_rows(batch.label, *self.shard)
        targets = target_centres(self.stream.table, batch.unit, target_row_M)
        active_M = (rows.positions(target_row_M) >= 0).float()
        cosine_M, active_M = self._gather(targets.cosine, active_M).sum(0)
        inputs = self._observe(LossInputs(cosine_M, batch.norm, running), batch)
        picked = pick_samples(self.loss.batch_rate, batch, self.seed, step)
        samples = picked.of(Samples(batch.unit, target_row_M, self.loss.curriculum(inputs)))
        block_samples = collectives.block_samples(batch.sizes)
        first_pass = partial(negative_statistics, self.stream, samples, block_samples=block_samples)
        if draw is None:
            negatives, kept = first_pass(rows, with_grad=with_grad, keep=keep)
        else:
            given = self.stream, samples, rows
            negatives, scores = score_rows(*given, block_samples=block_samples)
        log2_total_S = self._combine(negatives)
        weights = self._weights(active_M, log2_total_S, picked)
        by = differentiate(self.loss, log2_total_S * math.log(2.0), inputs, weights, scale)
        grad_lse_S = by.negatives * scale
        # Where there is no negative at all its derivative is 0, whatever finite number is here.
        log2_total_S = log2_total_S.masked_fill(log2_total_S.isneginf(), 0.0)
        gain = None
        if draw is not None:
            drawn = draw(scores.log2_shares(log2_total_S, by.negatives * picked.total))
            rows, gain = drawn.rows, drawn.gain
            negatives, kept = first_pass(rows, gain=gain, with_grad=with_grad, keep=keep)
        of_targets = TargetGradients(batch.unit, target_row_M, targets.centre, by.target_cosine)
        centre_loss = CentreLoss(
            rows, samples, log2_total_S, grad_lse_S, of_targets, kept, gain, block_samples,
            cosine_M, batch.norm, batch.sizes,
        )  # fmt: skip
        return GlobalLoss(
            loss=collectives.sum_over_samples(by.loss),
            mean_cosine=collectives.sum_over_samples(cosine_M.sum()) / sum(batch.sizes),
            running=inputs.running,
            centre_loss=centre_loss,
            unit_gradient=_unit_gradient(negatives, grad_lse_S, log2_total_S, targets, by, picked),
            norm_gradient=by.norm,
        )

    def _weights(self, active_M: Tensor, log2_total_S: Tensor, picked: Picked) -> SampleWeights:
        """Return how much each sample counts: those whose target class takes part, alike."""
        contributing = self.collectives.sum_over_samples(active_M.sum()).clamp_min(1.0)
        even_S = torch.full_like(log2_total_S, 1.0 / picked.total)
        return SampleWeights(active_M / contributing, even_S)

    def _combine(self, negatives: NegativeStatistics) -> Tensor:
        """Return the sum of all ranks' exponentials, to base 2: float32 [S]. Collective."""
        gathered_W2S = self._gather(negatives.running_max, negatives.sum_exp)
        return combine_statistics(gathered_W2S[:, 0], gathered_W2S[:, 1])

    def _gather(self, *statistics_M: Tensor) -> Tensor:
        """Return every rank's statistics of its classes, two numbers per sample: [W, 2, M]."""
        return self.collectives.gather_statistics(torch.stack(statistics_M))

    def _observe(self, inputs: LossInputs, batch: GatheredBatch) -> LossInputs:
        """Return the inputs with running statistics that have seen the global batch."""
        if not self.loss.initial:
            return inputs
        cosine_N = self.collectives.gather_all(inputs.target_cosine, batch.sizes)
        norm_N = self.collectives.gather_all(inputs.norm, batch.sizes)
        running = self.loss.observe(LossInputs(cosine_N, norm_N, inputs.running))
        # A number that is not finite must not stay for ever: its step will be refused or skipped.
        running = torch.where(running.isfinite().all(), running, inputs.running)
        return replace(inputs, running=running)


def _unit_gradient(
    negatives: NegativeStatistics,
    grad_lse_S: Tensor,
    log2_total_S: Tensor,
    targets: TargetCentres,
    by: Derivatives,
    picked: Picked,
) -> Tensor | None:
    """Return the derivative by the unit embeddings, [M, d], through this rank's classes.

    None where the first pass did not sum the centres; those sums are overwritten.
    """
    gradient = negatives.grad_unit
    if gradient is None:
        return None
    gradient.mul_((grad_lse_S * torch.exp2(negatives.running_max - log2_total_S)).unsqueeze(1))
    if picked.sample is not None:
        gradient = torch.zeros_like(targets.unit).index_copy_(0, picked.sample, gradient)
    return gradient.addcmul_(targets.unit, by.target_cosine.unsqueeze(1))


def pick_samples(rate: float, batch: GatheredBatch, seed: int, step: int) -> Picked:
    """Return the samples whose negatives count: those of the smallest hashes of (step, position).

    `ceil(rate·M)` of the M samples that a rank works on, which is the global batch where classes
    are sharded, so that the choice does not depend on the number of ranks there.
    """
    samples, sizes = len(batch.label), batch.sizes
    if rate == 1.0:
        return Picked(None, sum(sizes))
    whole = samples == sum(sizes)
    total = sum(math.ceil(rate * size) for size in ([samples] if whole else sizes))
    position_M = torch.arange(batch.first, batch.first + samples, device=batch.label.device)
    hash_M = class_hash(position_M, -1 - seed, step)  # not the active set's hashes: seed below 0
    count = math.ceil(rate * samples)
    return Picked(hash_M.topk(count, largest=False).indices.sort().values, total)


Backward = Callable[[Tensor], tuple[Tensor | None, Tensor | None]]
"""Takes the derivative by the loss (scalar), returns those by unit embeddings and norms."""


def attach_backward(unit: Tensor, norm: Tensor, loss: Tensor, backward: Backward) -> Tensor:
    """Return `loss` such that its backward pass calls `backward` once for the two gradients.

    It can be differentiated where the embeddings cannot, so that centres train on a frozen
    backbone too.
    """
    anchor = torch.zeros((), device=loss.device, requires_grad=True)
    attached: Tensor = _Attached.apply(unit, norm, anchor, loss, backward)
    return attached


class _Attached(torch.autograd.Function):
    """The identity on a loss that was computed outside autograd."""

    @staticmethod
    def forward(
        ctx: Any, unit: Tensor, norm: Tensor, anchor: Tensor, loss: Tensor, backward: Backward
    ) -> Tensor:
        ctx.backward_once = backward
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        backward, ctx.backward_once = ctx.backward_once, None
        if backward is None:
            raise ValueError(
                "backward() was called twice on one loss of the head, which would count the "
                "centres' gradient twice: call it once for each forward pass"
            )
        by_unit, by_norm = backward(grad_loss)
        return by_unit, by_norm, None, None, None
