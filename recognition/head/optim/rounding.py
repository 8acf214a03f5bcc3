"""Stochastic rounding of float32 rows to bfloat16, with bits that nothing but the row decides.

bfloat16 keeps 8 bits of a number. A running mean rounded to the nearest of them stands still as
soon as its steps are below half of the last bit; rounded up or down at random, in proportion to
what lies between, it is right on average (Gupta et al., "Deep Learning with Limited Numerical
Precision", ICML 2015, arXiv 1502.02551).

Shapes: R rows, D columns.
"""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from recognition.head.hashing import class_hash, hash_keys


@dataclass(frozen=True)
class RowNoise:
    """What the rounding of some rows may draw from.

    The bits are a pure function of (seed, step, class id, column): the same on every number of
    ranks, in every block size, on every device and after a resume.

    Attributes:
        seed: the head's seed.
        step: the head's step counter.
        class_id: int64 [R], global class id of each row, `0 <= class_id < 2^32 − D`.
    """

    seed: int
    step: int
    class_id: Tensor

    def word_keys(self) -> tuple[int, int]:
        """Return the two keys of the hash that makes the words, each in `[0, 2^32)`.

        With these a kernel makes the words where it needs them.
        """
        return hash_keys(_key(self.seed), self.step)

    def bits(self, columns: int, out: Tensor | None = None) -> Tensor:
        """Return int32 [R, columns] in `[0, 2^16)`, into `out` if it is given.

        The upper half of the low 32 bits of a row's word times a column's word, both odd and
        both hashed anew in each step. An odd number times all odd numbers gives all odd numbers,
        so that the upper half is exactly uniform over the words of either side; which word it
        meets makes any two rows, columns or steps uncorrelated. Hashing each of the R·D elements
        by itself took thirty times as long on a CPU.
        """
        # Columns take the words at the end of the 32-bit range, where no class id is.
        column_id = -1 - torch.arange(columns, device=self.class_id.device)
        word = class_hash(torch.cat([self.class_id, column_id]), _key(self.seed), self.step)
        word = word.sub_(1 << 31).to(torch.int32).bitwise_or_(1)
        row_R1, column_D = word[:-columns].unsqueeze(1), word[-columns:]
        bits_RD = torch.mul(row_R1, column_D, out=out)
        return bits_RD.bitwise_right_shift_(16).bitwise_and_(0xFFFF)


def round_stochastically(value_RD: Tensor, noise: RowNoise, out: Tensor, scratch: Tensor) -> None:
    """Round float32 `value_RD` into bfloat16 `out`, up or down, right on average.

    A number between two neighbours of bfloat16 becomes one of them, the upper with the
    probability of its distance from the lower in units of theirs, to 16 bits. One that bfloat16
    holds stays as it is; so do infinities, and a NaN stays a NaN.

    Args:
        value_RD: float32 [R, D], contiguous. Overwritten.
        noise: of these R rows.
        out: bfloat16 [R, D], contiguous.
        scratch: float32 [R, D], contiguous. Overwritten.
    """
    # bfloat16 is the upper half of float32. Adding 16 random bits to the lower half carries into
    # the upper one with the wanted probability; in exponents too, where neighbours change scale.
    # A NaN with all bits set would overflow into the sign, hence one that has room.
    value_RD.nan_to_num_(nan=float("nan"), posinf=float("inf"), neginf=-float("inf"))
    bits_RD = value_RD.view(torch.int32)
    bits_RD.add_(noise.bits(value_RD.shape[1], out=scratch.view(torch.int32)))
    out.view(torch.int16).copy_(bits_RD.bitwise_right_shift_(16))


def _key(seed: int) -> int:
    """Return a seed of another stream than the one that samples active classes.

    From the same one, the classes of a step would be those with small words.
    """
    digest = hashlib.sha256(f"rounding of row optimizer state, seed {seed}".encode()).digest()
    return int.from_bytes(digest[:8], "big")
