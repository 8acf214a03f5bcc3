"""Triton kernels over rows of the table: read and normalise them, step them.

Each touches a row of the table where it stands, so nothing of the table is gathered or written
back. Importing this module needs Triton.

Shapes: L rows of the table, R rows of one block, d embedding size. Pointers carry the shape of
what they point at; a table's row number times d is an int64, 29 million rows of 512 exceed 2^31.
"""

import torch
import triton
import triton.language as tl

from recognition.head.kernels.jit import kernel
from recognition.head.kernels.plain import EPSILON
from recognition.head.rounding import RowNoise

# One program takes 2,048 numbers of the table with four warps: 16 a thread, four loads of 16
# bytes each, so that a multiprocessor with 16 such programs has 128 KiB on their way. By Little's
# law some 25 KiB keep 4.8 TB/s busy over 132 multiprocessors at 700 ns of latency (estimates).
_TILE = 2048
_WARPS = 4
_LONGEST_D = 1024  # a row longer than this is walked in pieces


@kernel(varying=["start", "rows"])
def _read_rows(
    weight_Ld: tl.tensor,
    index_R: tl.tensor,
    factor_Rd: tl.tensor,
    inverse_R: tl.tensor,
    start: tl.tensor,
    rows: tl.tensor,
    size: tl.tensor,
    epsilon: tl.tensor,
    HAS_INDEX: tl.constexpr,
    HAS_FACTOR: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_D: tl.constexpr,
) -> None:
    row_R = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    inside_R = row_R < rows
    table_R = tl.load(index_R + row_R, mask=inside_R, other=0) if HAS_INDEX else start + row_R
    square_R = tl.zeros([BLOCK_R], tl.float32)
    for first in range(0, size, BLOCK_D):
        column_D = first + tl.arange(0, BLOCK_D)
        inside_RD = inside_R[:, None] & (column_D < size)[None, :]
        weight_RD = tl.load(
            weight_Ld + table_R[:, None] * size + column_D[None, :], mask=inside_RD, other=0.0
        )
        square_R += tl.sum(weight_RD * weight_RD, axis=1)
        if HAS_FACTOR:
            tl.store(
                factor_Rd + row_R[:, None] * size + column_D[None, :],
                weight_RD.to(factor_Rd.dtype.element_ty),
                mask=inside_RD,
            )
    norm_R = tl.maximum(tl.sqrt_rn(square_R), epsilon)
    tl.store(inverse_R + row_R, tl.div_rn(tl.full([BLOCK_R], 1.0, tl.float32), norm_R), inside_R)


@kernel()
def _mix(word: tl.tensor) -> tl.tensor:
    """Scramble 32-bit words, as `sampling.class_hash` does; uint32."""
    word = word ^ (word >> 16)
    word = word * 0x7FEB352D
    word = word ^ (word >> 15)
    word = word * 0x846CA68B
    return word ^ (word >> 16)


@kernel()
def _noise_words(number: tl.tensor, first_key: tl.tensor, second_key: tl.tensor) -> tl.tensor:
    """Return the words of `RowNoise.bits` for class ids or column numbers, int64; uint32."""
    word = _mix(number.to(tl.uint32) ^ first_key.to(tl.uint32))
    word = _mix(word + second_key.to(tl.uint32))
    return (word ^ 0x80000000) | 1


@kernel()
def _rounded(value_RD: tl.tensor, bits_RD: tl.tensor) -> tl.tensor:
    """Round float32 to bfloat16 as `rounding.round_stochastically` does; `bits_RD` is uint32."""
    word_RD = value_RD.to(tl.uint32, bitcast=True)
    word_RD = tl.where(value_RD != value_RD, 0x7FC00000, word_RD)
    return ((word_RD + bits_RD) >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)


@kernel(varying=["start", "rows", "first_key", "second_key"])
def _update_rows_sgd(
    weight_Ld: tl.tensor,
    momentum_Ld: tl.tensor,
    index_R: tl.tensor,
    gradient_Rd: tl.tensor,
    radial_R: tl.tensor,
    start: tl.tensor,
    rows: tl.tensor,
    size: tl.tensor,
    lr: tl.tensor,
    momentum: tl.tensor,
    weight_decay: tl.tensor,
    class_R: tl.tensor,
    first_key: tl.tensor,
    second_key: tl.tensor,
    HAS_INDEX: tl.constexpr,
    NESTEROV: tl.constexpr,
    ROUNDED: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_D: tl.constexpr,
) -> None:
    pieces = tl.cdiv(size, BLOCK_D)
    program = tl.program_id(0)
    row_R = (program // pieces).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    column_D = (program % pieces) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside_R = row_R < rows
    inside_RD = inside_R[:, None] & (column_D < size)[None, :]
    table_R = tl.load(index_R + row_R, mask=inside_R, other=0) if HAS_INDEX else start + row_R
    table_RD = table_R[:, None] * size + column_D[None, :]
    weight_RD = tl.load(weight_Ld + table_RD, mask=inside_RD, other=0.0)
    velocity_RD = tl.load(momentum_Ld + table_RD, mask=inside_RD, other=0.0).to(tl.float32)
    block_RD = row_R[:, None] * size + column_D[None, :]
    gradient_RD = tl.load(gradient_Rd + block_RD, mask=inside_RD, other=0.0).to(tl.float32)
    radial_R1 = tl.load(radial_R + row_R, mask=inside_R, other=0.0)[:, None]
    slope_RD = gradient_RD - weight_RD * radial_R1 + weight_decay * weight_RD
    velocity_RD = momentum * velocity_RD + slope_RD
    if NESTEROV:
        weight_RD -= lr * (slope_RD + momentum * velocity_RD)
    else:
        weight_RD -= lr * velocity_RD
    tl.store(weight_Ld + table_RD, weight_RD, mask=inside_RD)
    if ROUNDED:
        class_r = tl.load(class_R + row_R, mask=inside_R, other=0)
        row_word_r = _noise_words(class_r, first_key, second_key)
        column_word_d = _noise_words(-1 - column_D.to(tl.int64), first_key, second_key)
        bits_RD = (row_word_r[:, None] * column_word_d[None, :]) >> 16
        tl.store(momentum_Ld + table_RD, _rounded(velocity_RD, bits_RD), mask=inside_RD)
    else:
        tl.store(momentum_Ld + table_RD, velocity_RD, mask=inside_RD)


def _blocks(size: int) -> tuple[int, int]:
    """Return rows and columns of a program's tile; powers of two."""
    block_d = min(int(triton.next_power_of_2(size)), _LONGEST_D)
    return max(1, _TILE // block_d), block_d


def read_rows(
    weight_Ld: torch.Tensor,
    index_A: torch.Tensor | None,
    start: int,
    stop: int,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `BlockOps.read_rows`."""
    rows, size = stop - start, weight_Ld.shape[1]
    inverse_R = weight_Ld.new_empty(rows)
    if index_A is None and dtype == weight_Ld.dtype:
        factor_Rd, has_factor = weight_Ld[start:stop], False
    else:
        factor_Rd, has_factor = weight_Ld.new_empty(rows, size, dtype=dtype), True
    if rows == 0:
        return factor_Rd, inverse_R
    block_r, block_d = _blocks(size)
    _read_rows[(triton.cdiv(rows, block_r),)](
        weight_Ld,
        inverse_R if index_A is None else index_A[start:stop],
        factor_Rd,
        inverse_R,
        start,
        rows,
        size,
        EPSILON,
        HAS_INDEX=index_A is not None,
        HAS_FACTOR=has_factor,
        BLOCK_R=block_r,
        BLOCK_D=block_d,
        num_warps=_WARPS,
    )
    return factor_Rd, inverse_R


def update_rows_sgd(
    weight_Ld: torch.Tensor,
    momentum_Ld: torch.Tensor,
    index_A: torch.Tensor | None,
    start: int,
    stop: int,
    gradient_Rd: torch.Tensor,
    radial_R: torch.Tensor,
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    nesterov: bool = False,
    noise: RowNoise | None = None,
) -> None:
    """See `BlockOps.update_rows_sgd`."""
    rows, size = stop - start, weight_Ld.shape[1]
    rounded = momentum_Ld.dtype == torch.bfloat16
    assert noise is not None or not rounded, "rounding needs noise"
    if rows == 0:
        return
    block_r, block_d = _blocks(size)
    _update_rows_sgd[(triton.cdiv(rows, block_r) * triton.cdiv(size, block_d),)](
        weight_Ld,
        momentum_Ld,
        radial_R if index_A is None else index_A[start:stop],
        gradient_Rd,
        radial_R,
        start,
        rows,
        size,
        lr,
        momentum,
        weight_decay,
        radial_R if noise is None else noise.class_id,
        *((0, 0) if noise is None else map(_signed, noise.word_keys())),
        HAS_INDEX=index_A is not None,
        NESTEROV=nesterov,
        ROUNDED=rounded,
        BLOCK_R=block_r,
        BLOCK_D=block_d,
        num_warps=_WARPS,
    )


def _signed(word: int) -> int:
    """Return the int32 with the same bits: Triton would compile anew for each width of integer."""
    return word - ((word & 0x80000000) << 1)
