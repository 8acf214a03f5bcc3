"""What the block operations work on: the rows of a block, and the rule from cosine to logit.

Shapes: R classes of the block, K centres per class, D = K·d numbers per class, d embedding size.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from recognition.head.kernels.workspace import Workspace
from recognition.head.losses.base import Curriculum
from recognition.head.rows import RowSet

# A sum of 2^30 powers of 2^96 is below float32's largest number, 2^128, and 2^-96 above its
# smallest; in the usual terms, a scale of up to 66. The passes divide such a power by a centre's
# norm, which may be 1e-12, some 2^-40, and a gradient takes sums back by up to 2^96 times the
# scale: a maximum between keeps both in range. Powers get lost only where a sample is opposite to
# all its negatives (cosines near -1) and their norms are above some 1e5.
FIXED_MAX = 17.0
SAFE_LOG2_SCALE = 96.0
_NO_MAX = -1e30  # below any logit, and finite: its difference to itself is 0, not NaN


@dataclass
class Block:
    """Positions `[start, stop)` of a row set, and the tensors that hold those rows.

    The tensors, weight and optimizer state by name, are on the computing device: the block's rows,
    [R, ...]; with an `index`, whole tables, [L, ...].
    """

    rows: RowSet
    start: int
    stop: int
    tensors: dict[str, Tensor]
    index: Tensor | None  # int64 [R], the block's rows in the tables, each once
    space: Workspace  # for copies of rows
    _copies: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        """R, the number of rows."""
        return self.stop - self.start

    def read(self, name: str) -> Tensor:
        """Return the block's rows of a tensor, [R, ...]: a copy where there is an index.

        The same tensor each time: change it in place, then call `write`. A copy holds until
        another block is read into the same workspace.
        """
        tensor = self.tensors[name]
        if self.index is None:
            return tensor
        if name not in self._copies:
            rows = self.space.like(f"block {name}", tensor[: len(self)], tensor.dtype)
            self._copies[name] = torch.index_select(tensor, 0, self.index, out=rows)
        return self._copies[name]

    def write(self) -> None:
        """Put changed rows where they belong: call it once, after the block's update."""
        for name, rows in self._copies.items():
            assert self.index is not None
            self.tensors[name].index_copy_(0, self.index, rows)

    def by_centre(self, size: int) -> "Block":
        """Return the block with a row per centre, [R·K, size], to be read only.

        The block itself where a class has one centre.
        """
        weight = self.tensors["weight"]
        if weight.shape[1] == size:
            return self
        centres = weight.shape[1] // size
        weight_Cd = self.read("weight").view(-1, size)
        start, stop = self.start * centres, self.stop * centres
        return Block(self.rows, start, stop, {"weight": weight_Cd}, None, self.space)

    def row_numbers(self) -> Tensor:
        """Return the rows' numbers in the rank's table, on the computing device: int64 [R]."""
        return self.rows.numbers(self.start, self.stop, self.tensors["weight"].device)


@dataclass(frozen=True)
class LogitTransform:
    """How the cosine with a negative class becomes a logit to base 2."""

    log2_scale: float
    inter_class_filter: float | None = None  # negatives with a cosine above it are left out
    curriculum: Curriculum | None = None  # which negatives count for more
    centres: int = 1  # K; a class's cosine is the largest of its centres'

    @property
    def max_is_fixed(self) -> bool:
        """Whether all samples have the maximum `FIXED_MAX` throughout.

        Where the bound of the logits alone keeps their powers and sums in range, no largest logit
        need be found. With a curriculum the cosine `c·(t + c)` of a hard negative may be 2.
        """
        bound = self.log2_scale if self.curriculum is None else 2.0 * self.log2_scale
        return bound <= SAFE_LOG2_SCALE

    @property
    def initial_max(self) -> float:
        """Each sample's running maximum before the first block."""
        return FIXED_MAX if self.max_is_fixed else _NO_MAX

    @property
    def is_plain(self) -> bool:
        """Whether a logit is the scaled cosine with the one centre of its class."""
        return self.curriculum is None and self.centres == 1

    @property
    def limit(self) -> float:
        """The largest cosine that counts; infinite if all do."""
        return math.inf if self.inter_class_filter is None else self.inter_class_filter
