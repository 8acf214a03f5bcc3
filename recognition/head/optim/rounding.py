"""Stochastic rounding of float32 rows to bfloat16, with random bits that depend on the row alone.

bfloat16 keeps 8 bits of a number. A running mean that is rounded to nearest stops moving as soon
as its steps are below half of the last bit; rounded up or down at random, with the probability of
the distance to each, it is right on average (Gupta et al., "Deep Learning with Limited Numerical
Precision", ICML 2015, arXiv 1502.02551).

Shapes: R rows, D columns.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from recognition.head.hashing import class_hash, hash_keys, text_hash


@dataclass(frozen=True)
class RowNoise:
    """Random bits to round some rows with.

    They are a pure function of (seed, step, class id, column): the same on every number of ranks,
    in every block size, on every device and after a resume.
    """

    seed: int  # the head's
    step: int  # the head's
    row: Tensor | int  # int64 [R], numbers of the rows; or R, for those from 0
    first_class: int = 0  # class id of row 0

    def word_keys(self) -> tuple[int, int]:
        """Return the two keys, each in `[0, 2^32)`, with which a kernel makes the words itself."""
        return hash_keys(_key(self.seed), self.step)

    def class_id(self, device: torch.device) -> Tensor:
        """Return the rows' class ids, `0 <= class_id < 2^32 − D`: int64 [R]."""
        row_R = torch.arange(self.row, device=device) if isinstance(self.row, int) else self.row
        return row_R + self.first_class

    def bits(self, columns: int, out: Tensor) -> Tensor:
        """Return int32 [R, columns] in `[0, 2^16)`, in `out`.

        The upper half of the low 32 bits of a row's word times a column's word, both odd and
        both new in each step. An odd number times all odd numbers gives all odd numbers, so the
        upper half is exactly uniform over the words of either side, and any two rows,
        columns or steps are uncorrelated. Hashing each of the R·D elements took thirty times as
        long on a CPU.
        """
        # Columns take the words at the end of the 32-bit range, where no class id is.
        column_id = -1 - torch.arange(columns, device=out.device)
        ids = torch.cat([self.class_id(out.device), column_id])
        word = class_hash(ids, _key(self.seed), self.step)
        word = word.sub_(1 << 31).to(torch.int32).bitwise_or_(1)
        row_R1, column_D = word[:-columns].unsqueeze(1), word[-columns:]
        bits_RD = torch.mul(row_R1, column_D, out=out)
        return bits_RD.bitwise_right_shift_(16).bitwise_and_(0xFFFF)


def round_stochastically(value_RD: Tensor, noise: RowNoise, out: Tensor, scratch: Tensor) -> None:
    """Round float32 `value_RD` into bfloat16 `out`, up or down, right on average.

    A number between two neighbours in bfloat16 becomes one of them, the upper with the probability
    of its distance from the lower, in units of their distance, to 16 bits. One that bfloat16 holds
    stays as it is; so do infinities, and a NaN stays a NaN. All tensors are contiguous; `value_RD`
    and `scratch`, float32, are overwritten.
    """
    # bfloat16 is the upper half of float32. Adding 16 random bits to the lower half carries into
    # the upper one with the wanted probability, in exponents too, where the distance of neighbours
    # changes. A NaN with all bits set would overflow into the sign: NaNs get a fixed payload first.
    value_RD.nan_to_num_(nan=float("nan"), posinf=float("inf"), neginf=-float("inf"))
    bits_RD = value_RD.view(torch.int32)
    bits_RD.add_(noise.bits(value_RD.shape[1], out=scratch.view(torch.int32)))
    out.view(torch.int16).copy_(bits_RD.bitwise_right_shift_(16))


def _key(seed: int) -> int:
    """Return a seed other than that of sampling: the classes of a step have small words there."""
    return text_hash(f"rounding of row optimizer state, seed {seed}")
