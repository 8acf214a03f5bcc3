"""What a sampling rule is, what it may use, and what it returns.

Shapes: N samples of the global batch, L classes of this rank's shard, R classes of a block, K
centres per class, d embedding size.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from types import ModuleType

import torch
from torch import Tensor

from recognition.head.hashing import class_hash
from recognition.head.kernels.workspace import Workspace
from recognition.head.online_softmax.scores import Draw
from recognition.head.placement.collectives import Collectives
from recognition.head.placement.table import Table
from recognition.head.rows import RowSet, local_rows

# Classes hashed at a time where there is no kernel. On a CPU the temporaries, 8 bytes per class,
# should stay in each core's own cache: with one thread, 10 million hashes took 132, 78, 104 and
# 121 ms in chunks of 2^14, 2^16, 2^17 and 2^20. A GPU needs few launches instead.
_CHUNK_OF_THREAD = 1 << 16
_CHUNK_OF_GPU = 1 << 24


def hash_kernels(device: torch.device) -> ModuleType | None:
    """Return the module of Triton kernels that hash classes; None where they cannot be used."""
    if device.type != "cuda":
        return None
    try:
        from recognition.head.kernels import triton_hash
    except ImportError:  # which `kernels.build.block_ops` logs
        return None
    return triton_hash


@dataclass(frozen=True)
class TableReader:
    """This rank's centres, wherever they live, for the rules that use them."""

    table: Table
    embedding_size: int

    @property
    def rows(self) -> int:
        """L, classes in the table."""
        return self.table.weight.shape[0]

    def blocks(self, size: int) -> Iterator[tuple[int, int, Tensor]]:
        """Yield `(start, stop, centres)` over the whole table, at most `size` classes at a time.

        The centres are float32 [R, K, d] on the device that computes, as stored: not normalised.
        They may be the table itself, to be read only, until the next block.
        """
        rows = RowSet(self.rows)
        self.table.prepare(rows)
        for block in self.table.iter_blocks(rows, rows.blocks(size), Workspace()):
            weight = block.read("weight")
            yield block.start, block.stop, weight.view(len(weight), -1, self.embedding_size)


@dataclass(frozen=True)
class SampleRequest:
    """What a rule may use; embeddings and table are None for a caller whose rule does not."""

    labels: Tensor  # int64 [N], class ids of the global batch
    start: int  # first class of this rank's shard
    stop: int  # one past its last class
    num_classes: int  # on all ranks together
    rate: float  # fraction of the classes to take, `0 < rate <= 1`; for the rules that use one
    seed: int  # the head's
    step: int  # the head's
    unit: Tensor | None = None  # float32 [N, d], normalised embeddings of the global batch
    table: TableReader | None = None  # this rank's centres

    def embeddings_and_centres(self) -> tuple[Tensor, TableReader]:
        """Return `unit` and `table`, for a rule that has `uses_embeddings`."""
        assert self.unit is not None, "a rule that uses embeddings needs SampleRequest.unit"
        assert self.table is not None, "a rule that uses embeddings needs SampleRequest.table"
        return self.unit, self.table

    @property
    def shard_classes(self) -> int:
        """L, classes of this rank's shard."""
        return self.stop - self.start

    @property
    def quota(self) -> int:
        """`ceil(rate·num_classes)` for the decimal that was written: 0.1 of 30 is 3, not 4."""
        return math.ceil(Fraction(str(self.rate)) * self.num_classes)

    @property
    def shard_quota(self) -> int:
        """The shard's part of the quota; the parts of all shards add up to it."""
        quota, classes = self.quota, self.num_classes
        return quota * self.stop // classes - quota * self.start // classes

    def positive_classes(self) -> Tensor:
        """Count distinct labels: int64 scalar, without the wait that `torch.unique` makes."""
        ordered = self.labels.sort().values
        return (ordered[1:] != ordered[:-1]).sum() + 1

    def is_positive(self) -> Tensor:
        """Return which classes of the shard are in the batch: bool [L]."""
        row_N, size = local_rows(self.labels, self.start, self.stop), self.shard_classes
        # Labels of other ranks set a spare last element: no selection, so no wait for the device.
        mask = torch.zeros(size + 1, dtype=torch.bool, device=self.labels.device)
        return mask.index_fill_(0, torch.where(row_N < 0, size, row_N), True)[:size]

    def draw(self, mask_L: Tensor, threshold: int | Tensor) -> Tensor:
        """Set the mask, bool [L], in place, at every class whose hash is below `threshold`.

        Returns the mask. The threshold is an int64 scalar where it is a tensor.
        """
        kernels = hash_kernels(mask_L.device)
        if kernels is not None:
            kernels.draw(mask_L, threshold, self.start, self.seed, self.step)
            return mask_L
        for first, last, hash_R in self.hashes():
            mask_L[first:last] |= hash_R < threshold
        return mask_L

    def hashes(self) -> Iterator[tuple[int, int, Tensor]]:
        """Yield `(start, stop, hashes)` of the shard's classes, by row, in chunks."""
        device = self.labels.device
        on_cpu = device.type == "cpu"
        chunk = _CHUNK_OF_THREAD * torch.get_num_threads() if on_cpu else _CHUNK_OF_GPU
        for first in range(0, self.shard_classes, chunk):
            last = min(first + chunk, self.shard_classes)
            class_id = torch.arange(self.start + first, self.start + last, device=device)
            yield first, last, class_hash(class_id, self.seed, self.step)


@dataclass(frozen=True)
class ActiveSet:
    """The classes of this rank that take part in a step."""

    rows: RowSet  # in the rank's table
    positive_classes: Tensor  # int64 scalar, distinct labels in the global batch
    overflow: Tensor  # bool scalar, whether these alone reached the quota: no negative was drawn


class Sampler:
    """A sampling rule. Subclass to add one, or wrap a function in `LabelRule`."""

    # Whether it uses `SampleRequest.unit`, so that no set is known before the backbone has run.
    uses_embeddings: bool = False
    # Whether the host must wait for a GPU to learn how many classes it took.
    counts: bool = True

    def __call__(self, request: SampleRequest) -> ActiveSet:
        """Return the classes of this rank that take part in a step."""
        raise NotImplementedError(f"{type(self).__name__} must define __call__()")

    def drawn(self, request: SampleRequest, collectives: Collectives) -> Draw | None:
        """Return how some of the classes are drawn, once all are scored, to get a gradient.

        None where all classes that take part get one.
        """
        return None

    def forget(self) -> None:
        """Drop what is kept from step to step, which a run that resumes here does not have."""


@dataclass(frozen=True)
class LabelRule(Sampler):
    """A rule that uses ids and labels alone: a function of the request."""

    choose: Callable[[SampleRequest], ActiveSet]
    counts: bool = True

    def __call__(self, request: SampleRequest) -> ActiveSet:
        """Return the classes of this rank that take part in a step."""
        return self.choose(request)
