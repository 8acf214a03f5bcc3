"""Triton kernels over rows of the table: read them, add to their gradients, update them.

Each touches a row of the table in place, so nothing of the table is gathered or written back.
Needs Triton.

Shapes: L rows of the table, R rows of a block, N samples, d embedding size. Pointers carry the
shape of what they point at; a table's row number times d is an int64, as 29 million rows of 512
exceed 2^31. A row longer than a program's tile is taken in pieces.

A table may be kept as two halves (`block.split_halves`): `SPLIT` then says so, `weight_LD` has the
upper ones, which are bfloat16 numbers, and `low_LD` the lower ones.
"""

import triton.language as tl

from recognition.head.kernels.triton_hash import class_words
from recognition.head.kernels.triton_softmax import kernel


@kernel()
def inverse_norm(square_R: tl.tensor, epsilon: tl.tensor) -> tl.tensor:
    """Return `1 / max(norm, epsilon)` of rows, by the sums of their squares."""
    one_R = tl.full(square_R.shape, 1.0, tl.float32)
    return tl.div_rn(one_R, tl.maximum(tl.sqrt_rn(square_R), epsilon))


@kernel()
def load_weight(
    weight_LD: tl.tensor, low_LD: tl.tensor, offset: tl.tensor, inside: tl.tensor,
    SPLIT: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Load numbers of the table as float32, 0 for those that are not `inside`."""
    weight = tl.load(weight_LD + offset, mask=inside, other=0.0)
    if SPLIT:
        low = tl.load(low_LD + offset, mask=inside, other=0).to(tl.int32)
        bits = (weight.to(tl.int16, bitcast=True).to(tl.int32) << 16) + low
        return bits.to(tl.float32, bitcast=True)
    return weight.to(tl.float32)


@kernel()
def _store_weight(
    weight_LD: tl.tensor, low_LD: tl.tensor, offset: tl.tensor, weight: tl.tensor,
    inside: tl.tensor, SPLIT: tl.constexpr,
) -> None:  # fmt: skip
    """Store float32 numbers into the table."""
    if SPLIT:
        bits = weight.to(tl.int32, bitcast=True)
        high = (bits + 0x8000) >> 16
        low = bits - (high << 16)
        tl.store(weight_LD + offset, high.to(tl.int16).to(tl.bfloat16, bitcast=True), mask=inside)
        tl.store(low_LD + offset, low.to(tl.int16), mask=inside)
    else:
        tl.store(weight_LD + offset, weight, mask=inside)


@kernel(varying=["rows"])
def read_rows(
    weight_LD: tl.tensor, low_LD: tl.tensor, index_R: tl.tensor, factor_Rd: tl.tensor,
    inverse_R: tl.tensor, rows: tl.tensor, size: tl.tensor, epsilon: tl.tensor,
    HAS_INDEX: tl.constexpr, SPLIT: tl.constexpr, HAS_FACTOR: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr,
) -> None:  # fmt: skip
    """Write the rows' inverse norms and, if `HAS_FACTOR`, the rows in its dtype."""
    row_R = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    inside_R = row_R < rows
    table_R = tl.load(index_R + row_R, mask=inside_R, other=0) if HAS_INDEX else row_R
    square_R = tl.zeros([BLOCK_R], tl.float32)
    for first in range(0, size, BLOCK_D):
        column_D = first + tl.arange(0, BLOCK_D)
        inside_RD = inside_R[:, None] & (column_D < size)[None, :]
        offset_RD = table_R[:, None] * size + column_D[None, :]
        weight_RD = load_weight(weight_LD, low_LD, offset_RD, inside_RD, SPLIT)
        square_R += tl.sum(weight_RD * weight_RD, axis=1)
        if HAS_FACTOR:
            tl.store(
                factor_Rd + row_R[:, None] * size + column_D[None, :],
                weight_RD.to(factor_Rd.dtype.element_ty),
                mask=inside_RD,
            )
    tl.store(inverse_R + row_R, inverse_norm(square_R, epsilon), inside_R)


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


@kernel()
def _store_velocity(
    momentum_LD: tl.tensor, offset_RD: tl.tensor, velocity_RD: tl.tensor, inside_RD: tl.tensor,
    class_R: tl.tensor, column_D: tl.tensor, first_key: tl.tensor, second_key: tl.tensor,
    ROUNDED: tl.constexpr,
) -> None:  # fmt: skip
    """Store float32 velocities of classes and columns; `ROUNDED`: in bfloat16, with their noise."""
    if ROUNDED:
        row_word_R = _noise_words(class_R, first_key, second_key)
        column_word_D = _noise_words(-1 - column_D.to(tl.int64), first_key, second_key)
        bits_RD = (row_word_R[:, None] * column_word_D[None, :]) >> 16
        tl.store(momentum_LD + offset_RD, _rounded(velocity_RD, bits_RD), mask=inside_RD)
    else:
        tl.store(momentum_LD + offset_RD, velocity_RD, mask=inside_RD)


@kernel(varying=["first_row", "rows"])
def add_targets(
    grad_unit_Rd: tl.tensor, weight_LD: tl.tensor, low_LD: tl.tensor, index_R: tl.tensor,
    target_N: tl.tensor, grad_Nd: tl.tensor, first_row: tl.tensor, rows: tl.tensor,
    size: tl.tensor, epsilon: tl.tensor, HAS_INDEX: tl.constexpr, SPLIT: tl.constexpr,
    BLOCK_D: tl.constexpr,
) -> None:  # fmt: skip
    """Add each sample's gradient, over the norm of its target row, to that row's gradient."""
    sample = tl.program_id(0).to(tl.int64)
    row = tl.load(target_N + sample) - first_row
    inside = (row >= 0) & (row < rows)
    row = tl.where(inside, row, 0)
    table = tl.load(index_R + row) if HAS_INDEX else row
    square_D = tl.zeros([BLOCK_D], tl.float32)
    for first in range(0, size, BLOCK_D):
        column_D = first + tl.arange(0, BLOCK_D)
        inside_D = inside & (column_D < size)
        weight_D = load_weight(weight_LD, low_LD, table * size + column_D, inside_D, SPLIT)
        square_D += weight_D * weight_D
    inverse = inverse_norm(tl.sum(square_D, axis=0, keep_dims=True), epsilon)
    for first in range(0, size, BLOCK_D):
        column_D = first + tl.arange(0, BLOCK_D)
        inside_D = inside & (column_D < size)
        pointer_D = grad_unit_Rd + row * size + column_D
        grad_unit_D = tl.load(pointer_D, mask=inside_D, other=0.0).to(tl.float32)
        added_D = tl.load(grad_Nd + sample * size + column_D, mask=inside_D, other=0.0)
        grad_unit_D += added_D * inverse
        tl.store(pointer_D, grad_unit_D.to(grad_unit_Rd.dtype.element_ty), mask=inside_D)


@kernel()
def update_tile(
    gradient_RD: tl.tensor, along_R: tl.tensor, table_R: tl.tensor, class_R: tl.tensor,
    column_D: tl.tensor, inside_R: tl.tensor, weight_LD: tl.tensor, low_LD: tl.tensor,
    momentum_LD: tl.tensor, size: tl.tensor, lr: tl.tensor, momentum: tl.tensor,
    first_key: tl.tensor, second_key: tl.tensor, SPLIT: tl.constexpr, NESTEROV: tl.constexpr,
    ROUNDED: tl.constexpr,
) -> None:  # fmt: skip
    """Update a tile of weights and velocities with SGD; the gradient is that plus along·weight."""
    inside_RD = inside_R[:, None] & (column_D < size)[None, :]
    offset_RD = (table_R * size)[:, None] + column_D[None, :]
    weight_RD = load_weight(weight_LD, low_LD, offset_RD, inside_RD, SPLIT)
    velocity_RD = tl.load(momentum_LD + offset_RD, mask=inside_RD, other=0.0).to(tl.float32)
    gradient_RD += along_R[:, None] * weight_RD
    velocity_RD = momentum * velocity_RD + gradient_RD
    if NESTEROV:
        weight_RD -= lr * (gradient_RD + momentum * velocity_RD)
    else:
        weight_RD -= lr * velocity_RD
    _store_weight(weight_LD, low_LD, offset_RD, weight_RD, inside_RD, SPLIT)
    _store_velocity(
        momentum_LD, offset_RD, velocity_RD, inside_RD, class_R, column_D, first_key, second_key,
        ROUNDED,
    )  # fmt: skip


@kernel(varying=["rows", "first_class", "first_key", "second_key"])
def update_rows_sgd(
    weight_LD: tl.tensor, low_LD: tl.tensor, momentum_LD: tl.tensor, index_R: tl.tensor,
    grad_unit_Rd: tl.tensor, skip_1: tl.tensor, class_R: tl.tensor, rows: tl.tensor,
    size: tl.tensor, lr: tl.tensor, momentum: tl.tensor, weight_decay: tl.tensor,
    epsilon: tl.tensor, first_class: tl.tensor, first_key: tl.tensor, second_key: tl.tensor,
    HAS_INDEX: tl.constexpr, SPLIT: tl.constexpr, NESTEROV: tl.constexpr,
    ROUNDED: tl.constexpr, HAS_CLASS: tl.constexpr, HAS_SKIP: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr,
) -> None:  # fmt: skip
    """Update rows with SGD, in place in the tables; nothing is written where `skip_1` is true.

    A row's class is `first_class` plus its number in `class_R`, or in the block.
    """
    row_R = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    inside_R = row_R < rows
    table_R = tl.load(index_R + row_R, mask=inside_R, other=0) if HAS_INDEX else row_R
    class_of_R = tl.load(class_R + row_R, mask=inside_R, other=0) if HAS_CLASS else row_R
    square_R = tl.zeros([BLOCK_R], tl.float32)
    along_R = tl.zeros([BLOCK_R], tl.float32)
    for first in range(0, size, BLOCK_D):
        column_D = first + tl.arange(0, BLOCK_D)
        inside_RD = inside_R[:, None] & (column_D < size)[None, :]
        offset_RD = table_R[:, None] * size + column_D[None, :]
        block_RD = row_R[:, None] * size + column_D[None, :]
        weight_RD = load_weight(weight_LD, low_LD, offset_RD, inside_RD, SPLIT)
        grad_unit_RD = tl.load(grad_unit_Rd + block_RD, mask=inside_RD, other=0.0).to(tl.float32)
        square_R += tl.sum(weight_RD * weight_RD, axis=1)
        along_R += tl.sum(grad_unit_RD * weight_RD, axis=1)
    inverse_R = inverse_norm(square_R, epsilon)
    along_R = weight_decay - along_R * inverse_R * inverse_R
    updated_R = inside_R
    if HAS_SKIP:
        updated_R = inside_R & (tl.load(skip_1) == 0)
    # Where a row is one piece, these read what the loop above left in the nearest cache.
    for first in range(0, size, BLOCK_D):
        column_D = first + tl.arange(0, BLOCK_D)
        inside_RD = inside_R[:, None] & (column_D < size)[None, :]
        block_RD = row_R[:, None] * size + column_D[None, :]
        grad_unit_RD = tl.load(grad_unit_Rd + block_RD, mask=inside_RD, other=0.0).to(tl.float32)
        update_tile(
            grad_unit_RD, along_R, table_R, first_class + class_of_R, column_D, updated_R,
            weight_LD, low_LD, momentum_LD, size, lr, momentum, first_key, second_key, SPLIT,
            NESTEROV, ROUNDED,
        )  # fmt: skip


@kernel(varying=["stop", "rows", "first_class", "first_key", "second_key"])
def coast_rows(
    weight_LD: tl.tensor, low_LD: tl.tensor, momentum_LD: tl.tensor, index_R: tl.tensor,
    product_K4: tl.tensor, first_R: tl.tensor, class_R: tl.tensor, stop: tl.tensor,
    rows: tl.tensor, size: tl.tensor, first_class: tl.tensor, first_key: tl.tensor,
    second_key: tl.tensor, HAS_INDEX: tl.constexpr, SPLIT: tl.constexpr, ROUNDED: tl.constexpr,
    HAS_CLASS: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr,
) -> None:  # fmt: skip
    """Multiply rows of weight and momentum by the matrices of the steps that they missed, in place.

    `first_R`, int16, is each row's first missed step, and `product_K4`, float64, the product of
    each and all after it. Rows that missed none, whose first is `stop`, are not touched.
    """
    row_R = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    inside_R = row_R < rows
    table_R = tl.load(index_R + row_R, mask=inside_R, other=0) if HAS_INDEX else row_R
    class_of_R = tl.load(class_R + row_R, mask=inside_R, other=0) if HAS_CLASS else row_R
    missed_R = tl.load(first_R + row_R, mask=inside_R, other=0).to(tl.int32)
    inside_R = inside_R & (missed_R < stop)
    product_R = product_K4 + missed_R * 4
    a_R1 = tl.load(product_R, mask=inside_R, other=1.0).to(tl.float32)[:, None]
    b_R1 = tl.load(product_R + 1, mask=inside_R, other=0.0).to(tl.float32)[:, None]
    c_R1 = tl.load(product_R + 2, mask=inside_R, other=0.0).to(tl.float32)[:, None]
    d_R1 = tl.load(product_R + 3, mask=inside_R, other=1.0).to(tl.float32)[:, None]
    for first in range(0, size, BLOCK_D):
        column_D = first + tl.arange(0, BLOCK_D)
        inside_RD = inside_R[:, None] & (column_D < size)[None, :]
        offset_RD = (table_R * size)[:, None] + column_D[None, :]
        weight_RD = load_weight(weight_LD, low_LD, offset_RD, inside_RD, SPLIT)
        velocity_RD = tl.load(momentum_LD + offset_RD, mask=inside_RD, other=0.0).to(tl.float32)
        moved_RD = a_R1 * weight_RD + b_R1 * velocity_RD
        velocity_RD = c_R1 * weight_RD + d_R1 * velocity_RD
        _store_weight(weight_LD, low_LD, offset_RD, moved_RD, inside_RD, SPLIT)
        _store_velocity(
            momentum_LD, offset_RD, velocity_RD, inside_RD, first_class + class_of_R, column_D,
            first_key, second_key, ROUNDED,
        )  # fmt: skip
