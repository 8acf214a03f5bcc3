"""Sampling: which classes take part in a step.

Every rule here is a pure function of the seed, the step, the class ids and the labels of the
global batch. It draws from no generator and knows no rank count, so a resumed run, or one on
another number of ranks, replays the same sets. The rules that look at embeddings and centres
are `hash_forest` and `hard_negative`.

Shapes: N samples of the global batch, L classes of this rank's shard, R classes of one block, K
centres of a class, d embedding size.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import torch

from recognition.head.hashing import WORD, class_hash
from recognition.head.rows import RowSet, local_rows

# Classes hashed at a time. On a CPU the temporaries, 8 bytes a class, should stay in each core's
# own cache: with one thread, 10 million hashes took 132, 78, 104 and 121 ms in chunks of 2^14,
# 2^16, 2^17 and 2^20. A GPU needs few launches instead.
_CHUNK_OF_THREAD = 1 << 16
_CHUNK_OF_GPU = 1 << 24


class CentreReader(Protocol):
    """What a rule may read of the centres: this rank's table, wherever it lives."""

    @property
    def rows(self) -> int:
        """L, classes in the table."""
        ...

    def blocks(self, size: int) -> Iterator[tuple[int, int, torch.Tensor]]:
        """Yield `(start, stop, centres)` over the whole table, at most `size` classes at a time.

        `centres` is float32 [stop − start, K, d] on the device of the computation, as stored: not
        normalised. It is to be read, not to be changed, and only until the next block.
        """
        ...


@dataclass(frozen=True)
class SampleRequest:
    """What a rule may look at.

    Attributes:
        labels: int64 [N], global class ids of the whole global batch.
        start: first class of this rank's shard.
        stop: one past its last class.
        num_classes: classes on all ranks together.
        rate: share of the classes to take, `0 < rate <= 1`; for the rules that use one.
        seed: the head's seed.
        step: the head's step counter.
        unit: float32 [N, d], the normalised embeddings of the global batch; None for a caller
            whose rule does not look at them.
        table: this rank's centres; None likewise.
    """

    labels: torch.Tensor
    start: int
    stop: int
    num_classes: int
    rate: float
    seed: int
    step: int
    unit: torch.Tensor | None = None
    table: CentreReader | None = None


@dataclass(frozen=True)
class ActiveSet:
    """The classes of this rank that take part in a step.

    Attributes:
        rows: their rows in the rank's table.
        positive_classes: int64 scalar tensor, distinct labels in the global batch.
        overflow: bool scalar tensor, whether the positives alone reached the quota, so that no
            negative was drawn beside them.
    """

    rows: RowSet
    positive_classes: torch.Tensor
    overflow: torch.Tensor


class Sampler(Protocol):
    """A sampling rule."""

    @property
    def looks_at_embeddings(self) -> bool:
        """Whether it looks at `SampleRequest.unit`, so that no set is known before the backbone."""
        ...

    def __call__(self, request: SampleRequest) -> ActiveSet:
        """Return the classes of this rank that take part in a step."""
        ...

    def forget(self) -> None:
        """Drop what is kept from step to step, as a run that resumes here has not got it."""
        ...


@dataclass(frozen=True)
class LabelRule:
    """A rule that looks at ids and labels alone: a function of the request."""

    choose: Callable[[SampleRequest], ActiveSet]
    looks_at_embeddings: bool = False

    def __call__(self, request: SampleRequest) -> ActiveSet:
        """Return the classes of this rank that take part in a step."""
        return self.choose(request)

    def forget(self) -> None:
        """Nothing is kept."""


def sample_all(request: SampleRequest) -> ActiveSet:
    """Take every class: the softmax over the whole table."""
    no = torch.zeros((), dtype=torch.bool, device=request.labels.device)
    return ActiveSet(RowSet(request.stop - request.start), _distinct(request.labels), no)


def sample_positives_only(request: SampleRequest) -> ActiveSet:
    """Take the classes of the global batch and no other."""
    positives = _distinct(request.labels)
    rows = _rows_of(_positive_mask(request))
    return ActiveSet(rows, positives, torch.zeros_like(positives, dtype=torch.bool))


def sample_random_negative(request: SampleRequest) -> ActiveSet:
    """Take the batch's classes and random negatives up to a quota (arXiv 2010.05222, section 3.2).

    With C classes, P of them in the batch, and the quota `M = ceil(rate·C)`, a class outside the
    batch is taken when its hash of (seed, step, class id), uniform on `[0, 2^32)`, is below
    `t·2^32` with `t = max(0, (M − P) / (C − P))`. So M classes are expected, the positives
    included; the count varies by about `sqrt(M)`, and every rank decides on its own classes
    without knowing the others. Where the positives reach the quota they alone are taken, and
    `overflow` says so.
    """
    mask_L = _positive_mask(request)
    positives = _distinct(request.labels)
    quota = class_quota(request.rate, request.num_classes)
    others = (request.num_classes - positives).clamp_min(1)
    # Whole-number arithmetic, so that the CPU and every GPU cut at the same hash.
    threshold = ((quota - positives).clamp_min(0) << 32) // others
    _draw(mask_L, threshold, request)
    return ActiveSet(_rows_of(mask_L), positives, positives >= quota)


def sample_random_all(request: SampleRequest) -> ActiveSet:
    """Take random classes whether the batch holds them or not (arXiv 2010.05222, the ablation).

    A class is taken when its hash of (seed, step, class id), uniform on `[0, 2^32)`, is below
    `M/C·2^32` with the quota `M = ceil(rate·C)`, so that M classes are expected. A sample whose
    own class is not taken has nothing to be attracted to in this step. `overflow` is never set.
    """
    mask_L = torch.zeros(
        request.stop - request.start, dtype=torch.bool, device=request.labels.device
    )
    threshold = (class_quota(request.rate, request.num_classes) << 32) // request.num_classes
    _draw(mask_L, threshold, request)
    positives = _distinct(request.labels)
    return ActiveSet(_rows_of(mask_L), positives, torch.zeros_like(positives, dtype=torch.bool))


LABEL_RULES: dict[str, LabelRule] = {
    "all": LabelRule(sample_all),
    "random_negative": LabelRule(sample_random_negative),
    "random_all": LabelRule(sample_random_all),
    "positives_only": LabelRule(sample_positives_only),
}


def class_quota(rate: float, num_classes: int) -> int:
    """Return `ceil(rate·num_classes)` for the decimal that was written: 0.1 of 30 is 3, not 4."""
    return math.ceil(Fraction(str(rate)) * num_classes)


def _draw(mask_L: torch.Tensor, threshold: int | torch.Tensor, request: SampleRequest) -> None:
    """Set the mask, in place, at every class whose hash is below `threshold`."""
    for first, last, hash_R in _hashes(request, mask_L.device):
        mask_L[first:last] |= hash_R < threshold


def _hashes(
    request: SampleRequest, device: torch.device
) -> Iterator[tuple[int, int, torch.Tensor]]:
    """Yield `(start, stop, hashes)` of the shard's classes, by row, in chunks."""
    on_cpu = device.type == "cpu"
    chunk = _CHUNK_OF_THREAD * torch.get_num_threads() if on_cpu else _CHUNK_OF_GPU
    size = request.stop - request.start
    for first in range(0, size, chunk):
        last = min(first + chunk, size)
        class_id = torch.arange(request.start + first, request.start + last, device=device)
        yield first, last, class_hash(class_id, request.seed, request.step)


def _distinct(label_N: torch.Tensor) -> torch.Tensor:
    """Count distinct labels on the device; `torch.unique` would have to wait for it."""
    ordered = label_N.sort().values
    return (ordered[1:] != ordered[:-1]).sum() + 1


def _positive_mask(request: SampleRequest) -> torch.Tensor:
    """Return which classes of the shard are in the batch: bool [L]."""
    size = request.stop - request.start
    row_N = local_rows(request.labels, request.start, request.stop)
    # Labels of other ranks land in a spare last place: no selection, so no wait for the device.
    mask = torch.zeros(size + 1, dtype=torch.bool, device=request.labels.device)
    mask.index_fill_(0, torch.where(row_N < 0, size, row_N), True)
    return mask[:size]


def _rows_of(mask_L: torch.Tensor) -> RowSet:
    index = mask_L.nonzero().squeeze(1)
    return RowSet(index.shape[0], index)


def shard_quota(request: SampleRequest) -> int:
    """Return the shard's share of `M = ceil(rate·C)`: the shares of all shards add up to M."""
    quota, classes = class_quota(request.rate, request.num_classes), request.num_classes
    return quota * request.stop // classes - quota * request.start // classes


def take_best(request: SampleRequest, score: Callable[[], torch.Tensor]) -> ActiveSet:
    """Take the batch's classes and the best-scored others, up to the shard's quota of classes.

    Exactly `max(shard_quota(request), batch's classes in the shard)` classes. Equal scores are
    taken in the order of the hash of (seed, step, class id): the set is the same on every device,
    and classes that all have the lowest score are drawn at random. `overflow` says whether the
    batch's classes on all ranks reach the quota of the whole table.

    Args:
        request: which step, shard and batch.
        score: gives float32 [L], higher is better; called only where there is a choice to make.
    """
    size, quota = request.stop - request.start, shard_quota(request)
    positives = _distinct(request.labels)
    overflow = positives >= class_quota(request.rate, request.num_classes)
    if quota >= size:
        return ActiveSet(RowSet(size), positives, overflow)
    mask_L = _positive_mask(request)
    if quota > 0:
        key_L = ranking(score(), request).masked_fill_(mask_L, torch.iinfo(torch.int64).max)
        # Where the batch has more classes than the quota, those not among the best stay in too.
        mask_L.index_fill_(0, key_L.topk(quota, sorted=False).indices, True)
    return ActiveSet(_rows_of(mask_L), positives, overflow)


def ranking(score_L: torch.Tensor, request: SampleRequest) -> torch.Tensor:
    """Return a different number for each class, in the order of the scores: int64 [L]."""
    key_L = torch.empty(len(score_L), dtype=torch.int64, device=score_L.device)
    for first, last, hash_R in _hashes(request, score_L.device):
        # The bits of a float, read as a whole number, are in the order of the floats, but for
        # negative ones, which are in the opposite order. Adding 0 makes -0 a 0.
        bits_R = score_L[first:last].add(0.0).view(torch.int32)
        bits_R = torch.where(bits_R < 0, bits_R ^ 0x7FFFFFFF, bits_R)
        key_L[first:last] = (bits_R.to(torch.int64) << 32) | (WORD - hash_R)
    return key_L
