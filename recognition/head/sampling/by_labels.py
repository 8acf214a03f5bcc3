"""The sampling rules that use ids and labels alone.

Each is a pure function of the seed, the step, the class ids and the labels of the global batch. It
draws from no generator and does not depend on the number of ranks: a resumed run, or one on
another number of ranks, replays the same sets.

Shapes: L classes of this rank's shard.
"""

import torch
from torch import Tensor

from recognition.head.rows import RowSet
from recognition.head.sampling.rule import ActiveSet, SampleRequest


def sample_all(request: SampleRequest) -> ActiveSet:
    """Take every class: the softmax over the whole table."""
    return ActiveSet(RowSet(request.shard_classes), request.positive_classes(), _no(request))


def sample_positives_only(request: SampleRequest) -> ActiveSet:
    """Take the classes of the global batch and no other."""
    rows = RowSet.of_mask(request.is_positive())
    return ActiveSet(rows, request.positive_classes(), _no(request))


def sample_random_negative(request: SampleRequest) -> ActiveSet:
    """Take the batch's classes and random negatives up to a quota (arXiv 2010.05222, section 3.2).

    With C classes, P of them in the batch, and the quota `M = ceil(rate·C)`, a class outside the
    batch is taken when its hash of (seed, step, class id), uniform on `[0, 2^32)`, is below
    `t·2^32` with `t = max(0, (M − P) / (C − P))`. So M classes are expected, the positives
    included; the count varies by about `sqrt(M)`, and every rank decides on its own classes
    without knowing the others. Where the positives reach the quota they alone are taken, and
    `overflow` says so. A quota of all classes takes all of them, as `sample_all` does.
    """
    positives, quota = request.positive_classes(), request.quota
    if quota == request.num_classes:
        return ActiveSet(RowSet(request.shard_classes), positives, positives >= quota)
    others = (request.num_classes - positives).clamp_min(1)
    # Integer arithmetic, so that the CPU and every GPU cut at the same hash.
    threshold = ((quota - positives).clamp_min(0) << 32) // others
    mask_L = request.draw(request.is_positive(), threshold)
    return ActiveSet(RowSet.of_mask(mask_L), positives, positives >= quota)


def sample_random_all(request: SampleRequest) -> ActiveSet:
    """Take random classes whether the batch has them or not (arXiv 2010.05222, the ablation).

    A class is taken when its hash of (seed, step, class id), uniform on `[0, 2^32)`, is below
    `M/C·2^32` with the quota `M = ceil(rate·C)`, so that M classes are expected. A sample whose
    target class is not taken has nothing to be attracted to in this step. `overflow` is never set.
    A quota of all classes takes all of them, as `sample_all` does.
    """
    if request.quota == request.num_classes:
        return sample_all(request)
    none_L = torch.zeros(request.shard_classes, dtype=torch.bool, device=request.labels.device)
    mask_L = request.draw(none_L, (request.quota << 32) // request.num_classes)
    return ActiveSet(RowSet.of_mask(mask_L), request.positive_classes(), _no(request))


def _no(request: SampleRequest) -> Tensor:
    return torch.zeros((), dtype=torch.bool, device=request.labels.device)
