"""What the sampling rules share that score classes by the batch's embeddings.

They replay on the same number of ranks only, as each shard takes its part of the quota.

Shapes: L classes of this rank's shard, R classes of a chunk.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from recognition.head.hashing import WORD
from recognition.head.rows import RowSet
from recognition.head.sampling.rule import ActiveSet, SampleRequest, hash_kernels


def take_best(request: SampleRequest, score: Callable[[], Tensor]) -> ActiveSet:
    """Take the batch's classes and the best-scored others, up to the shard's quota of classes.

    Exactly `max(request.shard_quota, the batch's classes in the shard)` classes. Equal scores are
    taken in the order of the hash of (seed, step, class id): the set is the same on every device,
    and classes that all have the lowest score are drawn at random. `overflow` says whether the
    batch's classes on all ranks reach the quota of the whole table.

    Args:
        request: which step, shard and batch.
        score: gives float32 [L], higher is better; called only where there is a choice to make.
    """
    size, quota, positives = request.shard_classes, request.shard_quota, request.positive_classes()
    overflow = positives >= request.quota
    if quota >= size:
        return ActiveSet(RowSet(size), positives, overflow)
    mask_L = request.is_positive()
    if quota > 0:
        key_L = ranking(score(), request).masked_fill_(mask_L, torch.iinfo(torch.int64).max)
        # Where the batch has more classes than the quota, those not among the best stay in too.
        mask_L.index_fill_(0, key_L.topk(quota, sorted=False).indices, True)
    return ActiveSet(RowSet.of_mask(mask_L), positives, overflow)


def ranking(score_L: Tensor, request: SampleRequest) -> Tensor:
    """Return a different number for each class, in the order of the scores: int64 [L]."""
    kernels = hash_kernels(score_L.device)
    if kernels is not None:
        key: Tensor = kernels.ranking(score_L, request.start, request.seed, request.step)
        return key
    key_L = torch.empty(len(score_L), dtype=torch.int64, device=score_L.device)
    for first, last, hash_R in request.hashes():
        # The bits of a float, read as an integer, are in the order of the floats, except for
        # negative ones, which are in the opposite order. A -0 becomes a 0; to add 0 would do so
        # too, but on a GPU also change the bits of a NaN.
        score_R = score_L[first:last]
        bits_R = torch.where(score_R == 0.0, 0.0, score_R).view(torch.int32)
        bits_R = torch.where(bits_R < 0, bits_R ^ 0x7FFFFFFF, bits_R)
        key_L[first:last] = (bits_R.to(torch.int64) << 32) | (WORD - hash_R)
    return key_L
