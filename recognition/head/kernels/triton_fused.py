"""Triton kernels that make a product and the work around it at once: two per block and pass.

`product_exps` multiplies rows with the unit embeddings and turns the products, still in float32,
into exponentials; `product_update` multiplies the second pass's coefficients with the embeddings
and updates the rows with the sums. Between the two only one matrix of rows x samples goes through
memory, in bfloat16. Needs Triton.

The rows, in the dtype of the products, and their norms are made before, by `triton_rows.read_rows`:
in the loop of the products, squares would take registers and the turns of the matrix units. Of a
table in two halves (`block.split_halves`) the upper one is multiplied as it is.

No atomic adds: every sum has one owner and an order that the shapes alone decide.

Shapes: L rows of the table, R rows of a block, N samples, D numbers per row, G tiles of rows, P
tiles of samples; a program's tile in small letters. Pointers carry the shape of what they point at.
"""

import triton.language as tl

from recognition.head.kernels.triton_rows import update_tile
from recognition.head.kernels.triton_softmax import kernel


@kernel()
def _load_columns(
    pointer: tl.tensor, column: tl.tensor, size: tl.tensor, EVEN: tl.constexpr
) -> tl.tensor:
    """Load columns of a matrix with D of them: those past the end, if there are any, as 0."""
    if EVEN:
        return tl.load(pointer + column)
    return tl.load(pointer + column, mask=column < size, other=0.0)


@kernel()
def _product(
    factor_RD: tl.tensor, near_r: tl.tensor, unit_ND: tl.tensor, near_n: tl.tensor,
    size: tl.tensor, EVEN: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Return a tile of rows times samples, float32."""
    row_r = factor_RD + near_r.to(tl.int64) * size
    sample_n = unit_ND + near_n * size
    product_rn = tl.zeros([BLOCK_R, BLOCK_N], tl.float32)
    for first in range(0, size, BLOCK_D):
        column_d = first + tl.arange(0, BLOCK_D)
        row_rd = _load_columns(row_r[:, None], column_d[None, :], size, EVEN)
        unit_dn = _load_columns(sample_n[None, :], column_d[:, None], size, EVEN)
        product_rn = tl.dot(row_rd, unit_dn, product_rn)
    return product_rn


@kernel()
def _exponentials(
    product_rn: tl.tensor, inverse_r: tl.tensor, is_target_rn: tl.tensor, inside_r: tl.tensor,
    position_r: tl.tensor, sample_n: tl.tensor, absent_AB: tl.tensor, batch_N: tl.tensor,
    batches: tl.tensor, log2_scale: tl.tensor, limit: tl.tensor, fixed_max: tl.tensor,
    HAS_LIMIT: tl.constexpr, HAS_ABSENT: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Return a tile's `2^(logit − fixed_max)`, 0 for targets and what is left out."""
    # A row past the end has the logit −inf with all samples.
    offset_r = tl.where(inside_r, -fixed_max, float("-inf"))
    logit_rn = product_rn * (inverse_r * log2_scale)[:, None] + offset_r[:, None]
    left_out_rn = is_target_rn
    if HAS_LIMIT:
        left_out_rn = is_target_rn | (product_rn * inverse_r[:, None] > limit)
    if HAS_ABSENT:
        batch_n = tl.load(batch_N + sample_n)
        absent_r = absent_AB + position_r.to(tl.int64) * batches
        left_out_rn = left_out_rn | (tl.load(absent_r[:, None] + batch_n[None, :]) != 0)
    return tl.exp2(tl.where(left_out_rn, float("-inf"), logit_rn))


@kernel(varying=["start", "rows"])
def product_exps(
    factor_RD: tl.tensor, inverse_R: tl.tensor, unit_ND: tl.tensor, target_N: tl.tensor,
    out_RN: tl.tensor, sum_GN: tl.tensor, along_PR: tl.tensor, weight_N: tl.tensor,
    own_N: tl.tensor, absent_AB: tl.tensor, batch_N: tl.tensor, batches: tl.tensor,
    start: tl.tensor, rows: tl.tensor, samples: tl.tensor, size: tl.tensor,
    log2_scale: tl.tensor, limit: tl.tensor, fixed_max: tl.tensor, HAS_LIMIT: tl.constexpr,
    HAS_SUM: tl.constexpr, HAS_ABSENT: tl.constexpr, SECOND: tl.constexpr, EVEN: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
) -> None:  # fmt: skip
    """Multiply a block's rows with the samples; write exponentials, or the second pass's.

    First pass: writes `2^(logit − fixed_max) / norm`, 0 for targets; `HAS_SUM`: adds the sums of
    the exponentials over each tile of rows to `sum_GN`. `SECOND`: writes each sample's coefficient
    in the row's gradient, `weight·exp / norm`, `own / norm` for targets; and, to `along_PR`, their
    sums with the products over each tile of samples, which is the gradient's component along the
    row times its norm. `HAS_ABSENT`: rows of the set that took no part in a sample's batch have the
    coefficient 0. `EVEN`: D is a multiple of `BLOCK_D`.
    """
    parts = tl.cdiv(samples, BLOCK_N)
    # Programs of the same rows run side by side: rows come from memory once, samples from L2.
    tile_r, tile_n = tl.program_id(0) // parts, tl.program_id(0) % parts
    row_r = tile_r * BLOCK_R + tl.arange(0, BLOCK_R)
    column_n = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    inside_r, inside_n = row_r < rows, column_n < samples
    # Past the end the last row and sample are read once more: no mask, and nothing is stored.
    near_r = tl.minimum(row_r, rows - 1)
    near_n = tl.minimum(column_n, samples - 1)
    product_rn = _product(factor_RD, near_r, unit_ND, near_n, size, EVEN, BLOCK_R, BLOCK_N, BLOCK_D)
    inverse_r = tl.load(inverse_R + near_r)
    target_n = (tl.load(target_N + near_n) - start).to(tl.int32)
    is_target_rn = row_r[:, None] == target_n[None, :]
    exp_rn = _exponentials(
        product_rn, inverse_r, is_target_rn, inside_r, start + near_r, near_n, absent_AB, batch_N,
        batches, log2_scale, limit, fixed_max, HAS_LIMIT, HAS_ABSENT,
    )  # fmt: skip
    if SECOND:
        weight_n, own_n = tl.load(weight_N + near_n), tl.load(own_N + near_n)
        out_rn = tl.where(is_target_rn, own_n[None, :], exp_rn * weight_n[None, :])
        out_rn = tl.where(inside_n[None, :], out_rn * inverse_r[:, None], 0.0)
        along_r = tl.sum(out_rn * product_rn, axis=1)
        tl.store(along_PR + tile_n.to(tl.int64) * rows + row_r, along_r, mask=inside_r)
    else:
        out_rn = exp_rn * inverse_r[:, None]
    if HAS_SUM:
        sum_n = sum_GN + tile_r.to(tl.int64) * samples + column_n
        before_n = tl.load(sum_n, mask=inside_n, other=0.0)
        tl.store(sum_n, before_n + tl.sum(exp_rn, axis=0), mask=inside_n)
    out_r = out_RN + row_r.to(tl.int64) * samples
    inside_rn = inside_r[:, None] & inside_n[None, :]
    tl.store(out_r[:, None] + column_n[None, :], out_rn.to(out_RN.dtype.element_ty), mask=inside_rn)


@kernel(varying=["rows", "first_class", "first_key", "second_key"])
def product_update(
    coefficient_RN: tl.tensor, unit_ND: tl.tensor, weight_LD: tl.tensor, low_LD: tl.tensor,
    momentum_LD: tl.tensor, index_R: tl.tensor, inverse_R: tl.tensor, along_PR: tl.tensor,
    skip_1: tl.tensor, class_R: tl.tensor, parts: tl.tensor, rows: tl.tensor,
    samples: tl.tensor, size: tl.tensor, lr: tl.tensor, momentum: tl.tensor,
    weight_decay: tl.tensor, first_class: tl.tensor, first_key: tl.tensor,
    second_key: tl.tensor, HAS_INDEX: tl.constexpr, SPLIT: tl.constexpr,
    NESTEROV: tl.constexpr, ROUNDED: tl.constexpr, HAS_CLASS: tl.constexpr,
    HAS_SKIP: tl.constexpr, EVEN: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
) -> None:  # fmt: skip
    """Make the rows' gradient from their coefficients, and update them with SGD, in place.

    Nothing is written where `skip_1` is true. P is `parts`.
    """
    pieces = tl.cdiv(size, BLOCK_D)
    tile_r, tile_d = tl.program_id(0) // pieces, tl.program_id(0) % pieces
    row_r = tile_r * BLOCK_R + tl.arange(0, BLOCK_R)
    column_d = tile_d * BLOCK_D + tl.arange(0, BLOCK_D)
    inside_r = row_r < rows
    near_r = tl.minimum(row_r, rows - 1)
    coefficient_r = coefficient_RN + near_r.to(tl.int64) * samples
    gradient_rd = tl.zeros([BLOCK_R, BLOCK_D], tl.float32)
    for first in range(0, samples, BLOCK_N):
        column_n = first + tl.arange(0, BLOCK_N)
        coefficient_rn = _load_columns(coefficient_r[:, None], column_n[None, :], samples, EVEN)
        # Masked by column: a minimum, as for the rows, would hide that columns are neighbours.
        unit_n = unit_ND + tl.minimum(column_n, samples - 1) * size
        unit_nd = tl.load(
            unit_n[:, None] + column_d[None, :], mask=(column_d < size)[None, :], other=0.0
        )
        gradient_rd = tl.dot(coefficient_rn, unit_nd, gradient_rd)
    inverse_r = tl.load(inverse_R + row_r, mask=inside_r, other=0.0)
    along_r = tl.zeros([BLOCK_R], tl.float32)
    for part in range(parts):
        along_r += tl.load(along_PR + part * rows.to(tl.int64) + row_r, mask=inside_r, other=0.0)
    along_r = weight_decay - along_r * inverse_r * inverse_r
    table_r = tl.load(index_R + near_r) if HAS_INDEX else near_r.to(tl.int64)
    if HAS_SKIP:
        inside_r = inside_r & (tl.load(skip_1) == 0)
    class_r = tl.load(class_R + near_r) if HAS_CLASS else near_r.to(tl.int64)
    # In two halves, one after the other: a whole tile of weights and velocities beside that of
    # gradients would not fit a program's registers.
    halves_rd2 = tl.permute(tl.reshape(gradient_rd, [BLOCK_R, 2, BLOCK_D // 2]), [0, 2, 1])
    left_rd, right_rd = tl.split(halves_rd2)
    for half in tl.static_range(2):
        column_d = tile_d * BLOCK_D + half * (BLOCK_D // 2) + tl.arange(0, BLOCK_D // 2)
        update_tile(
            left_rd if half == 0 else right_rd, along_r, table_r, first_class + class_r, column_d,
            inside_r, weight_LD, low_LD, momentum_LD, size, lr, momentum, first_key, second_key,
            SPLIT, NESTEROV, ROUNDED,
        )  # fmt: skip
