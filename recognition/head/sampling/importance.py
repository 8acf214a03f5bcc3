"""Exact loss, gradients only where they matter: rows drawn by their share in the softmax.

The first pass scores every class, so loss and normaliser are those of all classes. A class j whose
largest share in the gradient of any sample is m_j gets a gradient with probability
`q_j = min(1, m_j / tau)`, and then `1 / q_j` times: right on average, and no row counts for more
than a share of tau. tau is such that the expected number of classes is the budget.

Shapes: L classes of this rank's shard, A drawn classes, B bins.
"""

import math
from functools import partial

import torch
from torch import Tensor

from recognition.head.online_softmax.scores import Draw, DrawnRows
from recognition.head.placement.collectives import Collectives
from recognition.head.rows import RowSet
from recognition.head.sampling.rule import ActiveSet, Sampler, SampleRequest

# Shares are counted in bins of 1/32 of a factor of two, so that the expected number of classes is
# the budget to within 1%, and, as counts are integers, the same on every number of ranks.
_BINS_PER_OCTAVE = 32
_CHUNK = 1 << 16  # classes that are counted at a time, so that temporaries are small
_OCTAVES = 64  # below 2^-64 of the largest share possible no class is ever drawn


class Importance(Sampler):
    """Let every class take part in the loss, and draw those that get a gradient.

    The batch's classes always get one. The draw depends on the hash of (seed, step, class id), and
    on shares: it replays after a resume, and to rounding on another number of ranks.
    """

    counts = False

    def __call__(self, request: SampleRequest) -> ActiveSet:
        """Return all classes of this rank."""
        positives = request.positive_classes()
        return ActiveSet(RowSet(request.shard_classes), positives, positives >= request.quota)

    def drawn(self, request: SampleRequest, collectives: Collectives) -> Draw | None:
        """See `Sampler.drawn`: None where the budget is all classes."""
        if request.quota == request.num_classes:
            return None
        return partial(self.draw, request, collectives)

    def draw(
        self, request: SampleRequest, collectives: Collectives, log2_share_L: Tensor
    ) -> DrawnRows:
        """Return the classes of this rank that get a gradient. Collective.

        `log2_share_L`, float32 to base 2, is each class's largest share for this rank's samples.
        """
        positive_L = request.is_positive()
        share_L = collectives.max_over_samples(log2_share_L).masked_fill_(positive_L, -math.inf)
        counts_B = collectives.sum_over_classes(_histogram(share_L)).cpu()
        log2_tau = _log2_tau(counts_B, request.quota - int(request.positive_classes()))
        mask_L = positive_L.clone()
        for first, last, hash_R in request.hashes():
            # Of probability 1 is what no hash, below 2^32, reaches; a NaN is below nothing.
            bound_R = (share_L[first:last] - log2_tau).double().exp2_().mul_(2.0**32)
            mask_L[first:last] |= hash_R < bound_R
        rows = RowSet.of_mask(mask_L)
        assert rows.index is not None
        gain_A = (log2_tau - share_L.index_select(0, rows.index)).exp2_().clamp_min_(1.0)
        return DrawnRows(rows, gain_A.masked_fill_(positive_L.index_select(0, rows.index), 1.0))


def _histogram(log2_share_L: Tensor) -> Tensor:
    """Return how many classes have a share in each bin: int64 [B], bin 0 the smallest."""
    bins = _OCTAVES * _BINS_PER_OCTAVE
    counts_B = torch.zeros(bins, dtype=torch.int64, device=log2_share_L.device)
    for share_R in torch.split(log2_share_L, _CHUNK):
        # Bin 0 takes NaN, and what is too small to matter: it is dropped.
        bin_R = (share_R * _BINS_PER_OCTAVE).nan_to_num_(nan=-math.inf).floor_()
        bin_R = bin_R.add_(bins + 1).clamp_(0, bins).to(torch.int32)
        counts_B += torch.bincount(bin_R, minlength=bins + 1)[1:]
    return counts_B


def _log2_tau(counts_B: Tensor, budget: int) -> float:
    """Return tau to base 2, such that `budget` classes are expected; −inf if it suffices for all.

    inf, so that no class is drawn, where the budget is below 1.
    """
    if budget < 1:
        return math.inf
    if int(counts_B.sum()) <= budget:
        return -math.inf
    bins = len(counts_B)
    lower_B = (torch.arange(bins, dtype=torch.float64) - bins) / _BINS_PER_OCTAVE
    share_B = counts_B * torch.exp2(lower_B + 0.5 / _BINS_PER_OCTAVE)
    # With tau at the upper bound of a bin: what is above is certain, the rest is in proportion.
    above_B = counts_B.sum() - counts_B.cumsum(0)
    below_B = share_B.cumsum(0)
    expected_B = above_B + below_B * torch.exp2(-lower_B - 1.0 / _BINS_PER_OCTAVE)
    # None where all shares are large: then tau is above 1, and no class is certain.
    place = min(int((expected_B > budget).sum()), bins - 1)
    return math.log2(below_B[place] / (budget - int(above_B[place])))
