"""The baseline, in plain PyTorch: how a large classifier is usually written.

Normalise the table, one matrix product, the full matrix of logits, a margin on the target class,
cross entropy, autograd, and stock SGD over the whole table. At a rate below 1 the positives and
random negatives are drawn, and their rows selected from the parameter; the gradient of the table
and its update stay dense. With several ranks the table is sharded and the batch gathered.

Shapes: b samples of this rank, N of the global batch, L classes of this rank, M of them active.
"""

import math
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from recognition.distributed import shard_range
from recognition.head.placement.initial import initial_centres
from scripts.benchmarks.head.cases import HeadCase

SCALE, MARGIN, MOMENTUM, WEIGHT_DECAY = 64.0, 0.4, 0.9, 5e-4


class BaselineHead(nn.Module):
    """CosFace by a dense softmax.

    At rate 1 it is, for the global batch and on any number of ranks,

        F.cross_entropy(64 * (normalize(x) @ normalize(w).T - 0.4 * one_hot(y)), y)

    The initial centres are those of `PartialFC`. Rank r holds `shard_range(C, ranks, r)`.
    """

    def __init__(self, case: HeadCase, device: torch.device) -> None:
        super().__init__()
        self.ranks = dist.get_world_size() if dist.is_initialized() else 1
        rank = dist.get_rank() if dist.is_initialized() else 0
        self.shard = shard_range(case.classes, self.ranks, rank)
        self.quota = math.ceil(case.rate * (self.shard[1] - self.shard[0]))
        self.rate = case.rate
        self.weight = nn.Parameter(initial_centres(*self.shard, case.dim, case.seed, device))
        self.optimizer = torch.optim.SGD(
            [self.weight], lr=0.0, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
        )
        # As the optimizer would create it in its first step; created here it counts as state.
        self.momentum = torch.zeros_like(self.weight)
        self.optimizer.state[self.weight]["momentum_buffer"] = self.momentum

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the loss of the global batch; all ranks must have equally many samples."""
        x_Nd: torch.Tensor = F.normalize(embeddings)
        if self.ranks > 1:
            x_Nd, labels = _GatherRows.apply(x_Nd), _gather(labels)
        row_N = labels - self.shard[0]
        weight_Md: torch.Tensor = self.weight
        if self.rate < 1.0:
            index_M = self._select(row_N)
            row_N = torch.where(self._is_local(labels), torch.searchsorted(index_M, row_N), -1)
            weight_Md = self.weight.index_select(0, index_M)
        cosine_NM = F.linear(x_Nd, F.normalize(weight_Md))
        sample = self._is_local(labels).nonzero().squeeze(1)
        cosine_NM[sample, row_N[sample]] -= MARGIN
        logit_NM = SCALE * cosine_NM
        if self.ranks == 1:
            return F.cross_entropy(logit_NM, row_N)
        return _sharded_cross_entropy(logit_NM, sample, row_N[sample])

    def step(self, lr: float) -> None:
        """Update the whole table, and drop the gradient."""
        self.optimizer.param_groups[0]["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def state_tensors(self) -> dict[str, torch.Tensor]:
        """Return the table and its momentum, each float32 [L, d]."""
        return {"weight": self.weight.detach(), "momentum": self.momentum}

    def _is_local(self, labels: torch.Tensor) -> torch.Tensor:
        return (labels >= self.shard[0]) & (labels < self.shard[1])

    def _select(self, row_N: torch.Tensor) -> torch.Tensor:
        """Return the rows of the batch and random others up to the quota: int64 [M], ascending."""
        score_L = torch.rand(self.weight.shape[0], device=row_N.device)
        score_L[row_N[(row_N >= 0) & (row_N < len(score_L))]] = 2.0
        positives = int((score_L == 2.0).sum())
        return score_L.topk(max(self.quota, positives)).indices.sort().values


def _sharded_cross_entropy(
    logit_NM: torch.Tensor, sample: torch.Tensor, column: torch.Tensor
) -> torch.Tensor:
    """Equals `F.cross_entropy` of all ranks' logits, concatenated. Collective: three all-reduces.

    `sample` and `column` are the positions of the target logits that this rank has.
    """
    max_N1 = logit_NM.detach().amax(1, keepdim=True)
    dist.all_reduce(max_N1, op=dist.ReduceOp.MAX)
    sum_exp_N = _SumOverRanks.apply((logit_NM - max_N1).exp().sum(1))
    target_N = torch.zeros_like(sum_exp_N).index_put((sample,), logit_NM[sample, column])
    target_N = _SumOverRanks.apply(target_N)
    loss: torch.Tensor = (sum_exp_N.log() + max_N1.squeeze(1) - target_N).mean()
    return loss


def _gather(part: torch.Tensor) -> torch.Tensor:
    parts = [torch.empty_like(part) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, part.contiguous())
    return torch.cat(parts)


class _GatherRows(torch.autograd.Function):
    """All-gather of rows (equal counts); backward: all-reduce (sum), then this rank's part.

    So a rank's embeddings get the gradient of the global mean.
    """

    @staticmethod
    def forward(ctx: Any, x_bd: torch.Tensor) -> torch.Tensor:
        ctx.count = x_bd.shape[0]
        return _gather(x_bd)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        total_Nd = grads[0].contiguous()
        dist.all_reduce(total_Nd)
        start = dist.get_rank() * ctx.count
        return total_Nd[start : start + ctx.count]


class _SumOverRanks(torch.autograd.Function):
    """All-reduce (sum) for one loss that is the same on all ranks; backward: the identity."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        return grads[0]
