"""Triton kernels of the online softmax over a block of products. Needs Triton.

Sums over the rows of a block are made in two steps, first within a chunk of rows by one program,
then over the chunks by another. The shapes alone decide the order of every sum, and there are no
atomic adds, so results repeat to the bit.

Shapes: R rows of a block, N samples, G chunks of rows; a program's tile in small letters.
Pointers carry the shape of what they point at.
"""

from collections.abc import Callable, Sequence
from typing import Any

import triton
import triton.language as tl


def kernel(varying: Sequence[str] = ()) -> Callable[[Callable[..., Any]], Any]:
    """Return a typed `triton.jit`.

    Args:
        varying: integer arguments that change from launch to launch. For others Triton compiles a
            kernel again for a 1, for multiples of 16 and for the rest.
    """
    decorator: Callable[[Callable[..., Any]], Any] = triton.jit(do_not_specialize=list(varying))
    return decorator


@kernel()
def _target_rows(
    target_N: tl.tensor, column_n: tl.tensor, first: tl.tensor, rows: tl.tensor, samples: tl.tensor
) -> tl.tensor:
    """Return each sample's target row in the block as int32, −1 if it is elsewhere."""
    target_n = tl.load(target_N + column_n, mask=column_n < samples, other=-1) - first
    return tl.where((target_n >= 0) & (target_n < rows), target_n, -1).to(tl.int32)


@kernel()
def _negative_logits(
    product_RN: tl.tensor, inverse_R: tl.tensor, target_n: tl.tensor, row_r: tl.tensor,
    column_n: tl.tensor, rows: tl.tensor, samples: tl.tensor, log2_scale: tl.tensor,
    limit: tl.tensor,
) -> tl.tensor:  # fmt: skip
    """Return a tile's logits to base 2, −inf for targets, filtered ones and rows past the end.

    Also returns the inverse norms, the offsets, and which of the tile are inside.
    """
    inside_r = row_r < rows
    inside_rn = inside_r[:, None] & (column_n < samples)[None, :]
    offset_rn = row_r.to(tl.int64)[:, None] * samples + column_n[None, :]
    product_rn = tl.load(product_RN + offset_rn, mask=inside_rn, other=0.0).to(tl.float32)
    inverse_r = tl.load(inverse_R + row_r, mask=inside_r, other=0.0)
    cosine_rn = product_rn * inverse_r[:, None]
    left_out_rn = (row_r[:, None] == target_n[None, :]) | (row_r >= rows)[:, None]
    left_out_rn = left_out_rn | (cosine_rn > limit)
    logit_rn = tl.where(left_out_rn, float("-inf"), cosine_rn * log2_scale)
    return logit_rn, inverse_r, offset_rn, inside_rn


@kernel(varying=["first_row", "rows"])
def block_maxima(
    product_RN: tl.tensor, inverse_R: tl.tensor, target_N: tl.tensor, max_GN: tl.tensor,
    first_row: tl.tensor, rows: tl.tensor, samples: tl.tensor, log2_scale: tl.tensor,
    limit: tl.tensor, CHUNK: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr,
) -> None:  # fmt: skip
    """Write each sample's largest logit of each chunk of rows."""
    parts = tl.cdiv(samples, BLOCK_N)
    chunk = tl.program_id(0) // parts
    column_n = (tl.program_id(0) % parts) * BLOCK_N + tl.arange(0, BLOCK_N)
    target_n = _target_rows(target_N, column_n, first_row, rows, samples)
    max_rn = tl.full([BLOCK_R, BLOCK_N], float("-inf"), tl.float32)
    for first in range(0, CHUNK, BLOCK_R):
        row_r = chunk * CHUNK + first + tl.arange(0, BLOCK_R)
        logit_rn, _, _, _ = _negative_logits(
            product_RN, inverse_R, target_n, row_r, column_n, rows, samples, log2_scale, limit
        )
        max_rn = tl.maximum(max_rn, logit_rn)
    max_n = tl.max(max_rn, axis=0)
    tl.store(max_GN + chunk.to(tl.int64) * samples + column_n, max_n, mask=column_n < samples)


@kernel(varying=["chunks"])
def merge_maxima(
    max_GN: tl.tensor, running_max_N: tl.tensor, rescale_N: tl.tensor, chunks: tl.tensor,
    samples: tl.tensor, BLOCK_G: tl.constexpr, BLOCK_N: tl.constexpr,
) -> None:  # fmt: skip
    """Raise each sample's running maximum to the chunks'; write the factor for its old sums."""
    column_n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside_n = column_n < samples
    max_gn = tl.full([BLOCK_G, BLOCK_N], float("-inf"), tl.float32)
    for first in range(0, chunks, BLOCK_G):
        chunk_g = first + tl.arange(0, BLOCK_G)
        loaded_gn = tl.load(
            max_GN + chunk_g.to(tl.int64)[:, None] * samples + column_n[None, :],
            mask=(chunk_g < chunks)[:, None] & inside_n[None, :],
            other=float("-inf"),
        )
        max_gn = tl.maximum(max_gn, loaded_gn)
    old_max_n = tl.load(running_max_N + column_n, mask=inside_n, other=0.0)
    new_max_n = tl.maximum(old_max_n, tl.max(max_gn, axis=0))
    tl.store(rescale_N + column_n, tl.exp2(old_max_n - new_max_n), mask=inside_n)
    tl.store(running_max_N + column_n, new_max_n, mask=inside_n)


@kernel(varying=["first_row", "rows"])
def block_exps(
    product_RN: tl.tensor, inverse_R: tl.tensor, target_N: tl.tensor, running_max_N: tl.tensor,
    sum_GN: tl.tensor, first_row: tl.tensor, rows: tl.tensor, samples: tl.tensor,
    log2_scale: tl.tensor, limit: tl.tensor, fixed_max: tl.tensor, HAS_MAX: tl.constexpr,
    CHUNK: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr,
) -> None:  # fmt: skip
    """Turn products into exponentials, in place, and write each sample's sum of each chunk of rows.

    Without `HAS_MAX` every maximum is `fixed_max`.
    """
    parts = tl.cdiv(samples, BLOCK_N)
    chunk = tl.program_id(0) // parts
    column_n = (tl.program_id(0) % parts) * BLOCK_N + tl.arange(0, BLOCK_N)
    target_n = _target_rows(target_N, column_n, first_row, rows, samples)
    if HAS_MAX:
        max_n = tl.load(running_max_N + column_n, mask=column_n < samples, other=0.0)
    else:
        max_n = tl.zeros([BLOCK_N], tl.float32) + fixed_max
    sum_rn = tl.zeros([BLOCK_R, BLOCK_N], tl.float32)
    for first in range(0, CHUNK, BLOCK_R):
        row_r = chunk * CHUNK + first + tl.arange(0, BLOCK_R)
        logit_rn, inverse_r, offset_rn, inside_rn = _negative_logits(
            product_RN, inverse_R, target_n, row_r, column_n, rows, samples, log2_scale, limit
        )
        exp_rn = tl.exp2(logit_rn - max_n[None, :])
        sum_rn += exp_rn
        exp_rn = exp_rn * inverse_r[:, None]
        tl.store(product_RN + offset_rn, exp_rn.to(product_RN.dtype.element_ty), mask=inside_rn)
    sum_n = tl.sum(sum_rn, axis=0)
    tl.store(sum_GN + chunk.to(tl.int64) * samples + column_n, sum_n, mask=column_n < samples)


@kernel(varying=["chunks"])
def merge_sums(
    sum_GN: tl.tensor, rescale_N: tl.tensor, sum_exp_N: tl.tensor, chunks: tl.tensor,
    samples: tl.tensor, HAS_MAX: tl.constexpr, BLOCK_G: tl.constexpr, BLOCK_N: tl.constexpr,
) -> None:  # fmt: skip
    """Rescale each sample's sum of exponentials, if `HAS_MAX`, and add the chunks'."""
    column_n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside_n = column_n < samples
    added_gn = tl.zeros([BLOCK_G, BLOCK_N], tl.float32)
    for first in range(0, chunks, BLOCK_G):
        chunk_g = first + tl.arange(0, BLOCK_G)
        added_gn += tl.load(
            sum_GN + chunk_g.to(tl.int64)[:, None] * samples + column_n[None, :],
            mask=(chunk_g < chunks)[:, None] & inside_n[None, :],
            other=0.0,
        )
    sum_n = tl.load(sum_exp_N + column_n, mask=inside_n, other=0.0)
    if HAS_MAX:
        sum_n *= tl.load(rescale_N + column_n, mask=inside_n, other=0.0)
    tl.store(sum_exp_N + column_n, sum_n + tl.sum(added_gn, axis=0), mask=inside_n)
