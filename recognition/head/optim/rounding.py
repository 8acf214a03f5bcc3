"""Stochastic rounding of float32 rows to bfloat16 or int8, with random bits of the row alone.

bfloat16 keeps 8 bits of a number, int8 which of 255 multiples of its row's scale it is. A running
mean that is rounded to nearest stops moving as soon as its steps are below half of the last bit;
rounded up or down at random, with the probability of the distance to each, it is right on average
(Gupta et al., "Deep Learning with Limited Numerical Precision", ICML 2015, arXiv 1502.02551).

Shapes: R rows, D columns.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recognition.head.hashing import class_hash, hash_keys, text_hash

INT8_MAX = 127.0  # the largest number that is used: its negative is one too


@dataclass(frozen=True)
class RowNoise:
    """Random bits to round some rows with.

    They are a pure function of (seed, step, class id, column, tensor): the same on every number of
    ranks, in every block size, on every device and after a resume.
    """

    seed: int  # the head's
    step: int  # the head's
    row: Tensor | int  # int64 [R], numbers of the rows; or R, for those from 0
    first_class: int = 0  # class id of row 0
    tensor: str = "momentum"  # name of what is rounded

    def of(self, tensor: str) -> "RowNoise":
        """Return the bits for another tensor's rows."""
        return replace(self, tensor=tensor)

    def word_keys(self) -> tuple[int, int]:
        """Return the two keys, each in `[0, 2^32)`, with which a kernel makes the words itself."""
        return hash_keys(self._key, self.step)

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
        word = class_hash(ids, self._key, self.step)
        word = word.sub_(1 << 31).to(torch.int32).bitwise_or_(1)
        row_R1, column_D = word[:-columns].unsqueeze(1), word[-columns:]
        bits_RD = torch.mul(row_R1, column_D, out=out)
        return bits_RD.bitwise_right_shift_(16).bitwise_and_(0xFFFF)

    @property
    def _key(self) -> int:
        """A seed other than that of sampling: the classes of a step have small words there."""
        # The momentum's is that of the time when nothing else was rounded.
        what = "row optimizer state" if self.tensor == "momentum" else self.tensor
        return text_hash(f"rounding of {what}, seed {self.seed}")


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


def round_to_int8(
    value_RD: Tensor, noise: RowNoise, out: Tensor, scale_R1: Tensor, scratch: Tensor
) -> None:
    """Round float32 `value_RD` into int8 `out` times a scale per row, right on average.

    The scale is the row's largest magnitude over 127. A number between two multiples of it becomes
    one of them, the upper with the probability of its distance from the lower, to 16 bits. A row
    whose largest magnitude is below 2^-119 becomes zeros with a scale of 0; of one with a NaN or an
    infinity the scale is not finite either. All tensors are contiguous; `value_RD` and `scratch`,
    float32, are overwritten.
    """
    torch.linalg.vector_norm(value_RD, float("inf"), dim=1, keepdim=True, out=scale_R1)
    scale_R1.div_(INT8_MAX)
    # A scale that is no normal number would have lost digits, and a GPU may take it for 0.
    scale_R1.masked_fill_(scale_R1 < torch.finfo(torch.float32).tiny, 0.0)
    value_RD.div_(torch.where(scale_R1 > 0.0, scale_R1, 1.0))
    # The random bits become the upper ones of a float32's fraction, those of a number in (1, 2).
    bits_RD = noise.bits(value_RD.shape[1], out=scratch.view(torch.int32))
    bits_RD.bitwise_left_shift_(7).bitwise_or_(0x3F800040)
    value_RD.add_(scratch).floor_().sub_(1.0).clamp_(-INT8_MAX, INT8_MAX)
    out.copy_(value_RD.nan_to_num_(nan=0.0))
