"""Triton kernels over rows of the table: read them, add to their gradients, update them.

Each touches a row of the table in place, so nothing of the table is gathered or written back.
Needs Triton.

Shapes: L rows of the table, R rows of a block, N samples, d embedding size. Pointers carry the
shape of what they point at; a table's row number times d is an int64, as 29 million rows of 512
exceed 2^31. A row longer than a program's tile is taken in pieces.
"""

import triton.language as tl

from recognition.head.kernels.triton_hash import class_words
from recognition.head.kernels.triton_softmax import kernel


@kernel()
def _inverse(square_R: tl.tensor, epsilon: tl.tensor) -> tl.tensor:
    """Return `1 / max(norm, epsilon)` of rows, by the sums of their squares."""
    one_R = tl.full(square_R.shape, 1.0, tl.float32)
    return tl.div_rn(one_R, tl.maximum(tl.sqrt_rn(square_R), epsilon))


@kernel(varying=["rows"])
def read_rows(
    weight_Ld: tl.tensor, index_R: tl.tensor, factor_Rd: tl.tensor, inverse_R: tl.tensor,
    rows: tl.tensor, size: tl.tensor, epsilon: tl.tensor, HAS_INDEX: tl.constexpr,
    HAS_FACTOR: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr,
) -> None:  # fmt: skip
    """Write the rows' inverse norms and, if `HAS_FACTOR`, the rows in its dtype."""
    row_R = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    inside_R = row_R < rows
    table_R = tl.load(index_R + row_R, mask=inside_R, other=0) if HAS_INDEX else row_R
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
    tl.store(inverse_R + row_R, _inverse(square_R, epsilon), inside_R)


@kernel()
def _noise_words(number: tl.tensor, first_key: tl.tensor, second_key: tl.tensor) -> tl.tensor:
    """Return the words of `RowNoise.bits` for class ids or column numbers, int64; uint32."""
    return (class_words(number, first_key, second_key) ^ 0x80000000) | 1


@kernel()
def _rounded(value_RD: tl.tensor, bits_RD: tl.tensor) -> tl.tensor:
    """Round float32 to bfloat16 as `rounding.round_stochastically` does; `bits_RD` is uint32."""
    word_RD = value_RD.to(tl.uint32, bitcast=True)
    word_RD = tl.where(value_RD != value_RD, 0x7FC00000, word_RD)
    return ((word_RD + bits_RD) >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)


@kernel(varying=["rows"])
def add_targets(
    grad_unit_Rd: tl.tensor, weight_Ld: tl.tensor, index_R: tl.tensor, target_N: tl.tensor,
    grad_Nd: tl.tensor, rows: tl.tensor, size: tl.tensor, epsilon: tl.tensor,
    HAS_INDEX: tl.constexpr, BLOCK_D: tl.constexpr,
) -> None:  # fmt: skip
    """Add one sample's gradient to that of its target row, which no other program has."""
    sample = tl.program_id(0).to(tl.int64)
    row = tl.load(target_N + sample)
    inside = (row >= 0) & (row < rows)
    row = tl.where(inside, row, 0)
    table = tl.load(index_R + row) if HAS_INDEX else row
    square_D = tl.zeros([BLOCK_D], tl.float32)
    for first in range(0, size, BLOCK_D):
        column_D = first + tl.arange(0, BLOCK_D)
        inside_D = inside & (column_D < size)
        weight_D = tl.load(weight_Ld + table * size + column_D, mask=inside_D, other=0.0)
        square_D += weight_D * weight_D
    inverse = _inverse(tl.sum(square_D, axis=0, keep_dims=True), epsilon)
    for first in range(0, size, BLOCK_D):
        column_D = first + tl.arange(0, BLOCK_D)
        inside_D = inside & (column_D < size)
        pointer_D = grad_unit_Rd + row * size + column_D
        grad_unit_D = tl.load(pointer_D, mask=inside_D, other=0.0).to(tl.float32)
        added_D = tl.load(grad_Nd + sample * size + column_D, mask=inside_D, other=0.0)
        grad_unit_D += added_D * inverse
        tl.store(pointer_D, grad_unit_D.to(grad_unit_Rd.dtype.element_ty), mask=inside_D)


@kernel(varying=["rows", "first_key", "second_key"])
def update_rows_sgd(
    weight_Ld: tl.tensor, momentum_Ld: tl.tensor, index_R: tl.tensor, grad_unit_Rd: tl.tensor,
    rows: tl.tensor, size: tl.tensor, lr: tl.tensor, momentum: tl.tensor,
    weight_decay: tl.tensor, epsilon: tl.tensor, class_R: tl.tensor, first_key: tl.tensor,
    second_key: tl.tensor, HAS_INDEX: tl.constexpr, NESTEROV: tl.constexpr,
    ROUNDED: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr,
) -> None:  # fmt: skip
    """Update rows with SGD, in place in the tables."""
    row_R = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    inside_R = row_R < rows
    table_R = tl.load(index_R + row_R, mask=inside_R, other=0) if HAS_INDEX else row_R
    square_R = tl.zeros([BLOCK_R], tl.float32)
    along_R = tl.zeros([BLOCK_R], tl.float32)
    for first in range(0, size, BLOCK_D):
        column_D = first + tl.arange(0, BLOCK_D)
        inside_RD = inside_R[:, None] & (column_D < size)[None, :]
        table_RD = table_R[:, None] * size + column_D[None, :]
        block_RD = row_R[:, None] * size + column_D[None, :]
        weight_RD = tl.load(weight_Ld + table_RD, mask=inside_RD, other=0.0)
        grad_unit_RD = tl.load(grad_unit_Rd + block_RD, mask=inside_RD, other=0.0).to(tl.float32)
        square_R += tl.sum(weight_RD * weight_RD, axis=1)
        along_R += tl.sum(grad_unit_RD * weight_RD, axis=1)
    inverse_R = _inverse(square_R, epsilon)
    along_R1 = (weight_decay - along_R * inverse_R * inverse_R)[:, None]
    # Where a row is one piece, these read what the loop above left in the nearest cache.
    for first in range(0, size, BLOCK_D):
        column_D = first + tl.arange(0, BLOCK_D)
        inside_RD = inside_R[:, None] & (column_D < size)[None, :]
        table_RD = table_R[:, None] * size + column_D[None, :]
        block_RD = row_R[:, None] * size + column_D[None, :]
        weight_RD = tl.load(weight_Ld + table_RD, mask=inside_RD, other=0.0)
        grad_unit_RD = tl.load(grad_unit_Rd + block_RD, mask=inside_RD, other=0.0).to(tl.float32)
        velocity_RD = tl.load(momentum_Ld + table_RD, mask=inside_RD, other=0.0).to(tl.float32)
        grad_RD = grad_unit_RD + along_R1 * weight_RD
        velocity_RD = momentum * velocity_RD + grad_RD
        if NESTEROV:
            weight_RD -= lr * (grad_RD + momentum * velocity_RD)
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
