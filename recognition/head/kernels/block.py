"""What the block operations work on: the rows of a block, and the rule from cosine to logit.

Shapes: R classes of the block, K centres per class, D = K·d numbers per class, d embedding size.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from recognition.head.kernels.workspace import Workspace
from recognition.head.losses.base import Curriculum
from recognition.head.optim.history import Missed
from recognition.head.optim.rounding import RowNoise
from recognition.head.optim.storage import ROUNDED, decode, encode, scale_name
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
    [R, ...]; with an `index`, whole tables, [L, ...]. They are in the form that is kept (see
    `optim.storage`), with the scales of rows in int8 among them. Where the weight is kept as two
    halves (see `join_halves`), `tensors` has the upper one, and `low` is the other.
    """

    rows: RowSet
    start: int
    stop: int
    tensors: dict[str, Tensor]
    index: Tensor | None  # int64 [R], the block's rows in the tables, each once
    space: Workspace  # for copies of rows
    low: Tensor | None = None  # int16, the lower half of the weight
    # Steps that the rows have still to make up for, of SGD with a momentum: `read` does so.
    missed: Missed | None = None
    _copies: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        """R, the number of rows."""
        return self.stop - self.start

    def read(self, name: str) -> Tensor:
        """Return the block's rows of a tensor, [R, ...]: a copy where there is an index.

        Of one that is kept in less than float32, or in two halves, a copy too, in float32. The same
        tensor each time: change it in place, then call `write`. A copy holds until another block is
        read into the same workspace.
        """
        if name not in self._copies:
            if self.missed is not None:
                self._make_up(self.missed)
                return self._copies[name]
            rows = self._load(name)
            if rows is self.tensors[name]:
                return rows
            self._copies[name] = rows
        return self._copies[name]

    def read_state(self) -> dict[str, Tensor]:
        """Return what `read` does of each tensor of the optimizer's state."""
        kept = {"weight", *map(scale_name, self.tensors)}
        return {name: self.read(name) for name in self.tensors if name not in kept}

    def noise(self, seed: int, step: int, first_class: int) -> RowNoise | None:
        """Return the random bits for `write`; None where no tensor is kept in less than float32.

        `first_class` is the class id of the table's row 0.
        """
        if not any(map(self._is_rounded, self.tensors)):
            return None
        row_R = self.row_numbers()
        if row_R is None:
            return RowNoise(seed, step, len(self), first_class + self.start)
        return RowNoise(seed, step, row_R, first_class)

    def write(self, noise: RowNoise | None = None) -> None:
        """Put changed rows where they belong: call it once, after the block's update.

        Rows that were read are overwritten; `noise` is that of `Block.noise`.
        """
        for name, rows in self._copies.items():
            tensor = self.tensors[name]
            if name == "weight" and self.low is not None:
                high_RD, low_RD = split_halves(rows)
                self._put(tensor, high_RD)
                self._put(self.low, low_RD)
            elif tensor.dtype in ROUNDED:
                assert noise is not None, "rounding needs noise"
                self._round(name, rows, noise.of(name))
            else:
                self._put(tensor, rows)

    def _is_rounded(self, name: str) -> bool:
        halves = name == "weight" and self.low is not None
        return self.tensors[name].dtype in ROUNDED and not halves

    def _round(self, name: str, value_RD: Tensor, noise: RowNoise) -> None:
        """Write float32 rows in the form that is kept; they are overwritten."""
        names = [each for each in (name, scale_name(name)) if each in self.tensors]
        stored = [self._memory(each, self.tensors[each]) for each in names]
        scratch = self.space.like("rounding", value_RD, torch.float32)
        encode(value_RD, noise, stored[0], stored[1] if len(stored) > 1 else None, scratch)
        if self.index is not None:
            for each, rows in zip(names, stored, strict=True):
                self._put(self.tensors[each], rows)

    def _memory(self, name: str, tensor: Tensor) -> Tensor:
        """Return memory for the block's rows of a tensor; the tensor where there is no index."""
        if self.index is None:
            return tensor
        return self.space.like(f"block {name}", tensor[: len(self)], tensor.dtype)

    def _make_up(self, missed: Missed) -> None:
        """Copy weight and momentum, and make the missed steps in the copies."""
        for name in ("weight", "momentum"):
            rows = self._load(name)
            if rows is self.tensors[name]:
                rows = self.space.like(f"block {name}", rows, rows.dtype).copy_(rows)
            self._copies[name] = rows
        missed.apply(self._copies["weight"], self._copies["momentum"])

    def _load(self, name: str) -> Tensor:
        """Return the block's rows of a tensor as `read` does: the tensor itself, or a copy."""
        tensor = self.tensors[name]
        stored_RD = self._rows(name, tensor)
        if name == "weight" and self.low is not None:
            joined = self.space.like("joined", stored_RD, torch.float32)
            return join_halves(stored_RD, self._rows("low", self.low), out=joined)
        if tensor.dtype not in ROUNDED:
            return stored_RD
        scale_R1 = self.tensors.get(scale_name(name))
        if scale_R1 is not None:
            scale_R1 = self._rows(scale_name(name), scale_R1)
        wide = self.space.like(f"wide {name}", stored_RD, torch.float32)
        return decode(stored_RD, scale_R1, out=wide)

    def _rows(self, name: str, tensor: Tensor) -> Tensor:
        """Return the block's rows of a tensor as it is kept: a copy where there is an index."""
        if self.index is None:
            return tensor
        return torch.index_select(tensor, 0, self.index, out=self._memory(name, tensor))

    def _put(self, tensor: Tensor, rows: Tensor) -> None:
        """Write rows where those of `_rows` are from."""
        if self.index is None:
            tensor.copy_(rows)
        else:
            tensor.index_copy_(0, self.index, rows)

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

    def rows_of_table(self) -> Tensor | slice:
        """Return what selects the rows in a tensor with a row for each of the table's."""
        row_R = self.row_numbers()
        return slice(self.start, self.stop) if row_R is None else row_R

    def row_numbers(self) -> Tensor | None:
        """Return the rows' numbers in the rank's table, int64 [R]; None if they begin at `start`.

        They are where the row set is.
        """
        return None if self.rows.index is None else self.rows.index[self.start : self.stop]


def split_halves(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return float32 numbers as their nearest bfloat16 and what is missing, as int16.

    No bit is lost, whatever the numbers are: of the 32 bits, read as one integer, the upper half
    is rounded, and the lower is the signed difference to it.
    """
    bits = weight.view(torch.int32)
    high = (bits + 0x8000) >> 16
    low = bits - (high << 16)
    return high.to(torch.int16).view(torch.bfloat16), low.to(torch.int16)


def join_halves(high: Tensor, low: Tensor, out: Tensor | None = None) -> Tensor:
    """Return the float32 numbers that `split_halves` split, in `out` if it is given."""
    bits = high.view(torch.int16).to(torch.int32) << 16
    return torch.add(bits, low, out=None if out is None else out.view(torch.int32)).view(
        torch.float32
    )


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
