"""Triton kernel of the loss's slopes on a block of products. Importing it needs Triton.

Shapes: R rows of one block, N samples, K micro-batches; a program's tile in small letters.
Pointers carry the shape of what they point at.
"""

import torch
import triton
import triton.language as tl

from recognition.head.kernels.jit import kernel, limit_arguments, own_rows

# The slopes are summed along a row: 16 rows x 256 samples, 32 numbers a thread, 512 programs at
# R = 8192. What is known of the samples (20 bytes each) is read again for each tile, from L1.
_ROWS = 16
_SAMPLES = 256
_WARPS = 4


@kernel(varying=["rows", "parts"])
def _block_slopes(
    product_RN: tl.tensor,
    inverse_R: tl.tensor,
    own_N: tl.tensor,
    log2_total_N: tl.tensor,
    negative_N: tl.tensor,
    positive_N: tl.tensor,
    absent_RK: tl.tensor,
    part_N: tl.tensor,
    slope_RN: tl.tensor,
    radial_R: tl.tensor,
    rows: tl.tensor,
    samples: tl.tensor,
    parts: tl.tensor,
    log2_scale: tl.tensor,
    limit: tl.tensor,
    HAS_LIMIT: tl.constexpr,
    HAS_ABSENT: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_N: tl.constexpr,
) -> None:
    """Write the slopes of some rows over all samples, and their radial parts.

    `slope_RN` may be `product_RN`, as in `_block_shares`.
    """
    row_r = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    inside_r = row_r < rows
    inverse_r = tl.load(inverse_R + row_r, mask=inside_r, other=0.0)
    radial_rn = tl.zeros([BLOCK_R, BLOCK_N], tl.float32)
    for first in range(0, samples, BLOCK_N):
        column_n = first + tl.arange(0, BLOCK_N)
        inside_n = column_n < samples
        inside_rn = inside_r[:, None] & inside_n[None, :]
        offset_rn = row_r.to(tl.int64)[:, None] * samples + column_n[None, :]
        own_n = own_rows(own_N, column_n, rows, samples)
        log2_total_n = tl.load(log2_total_N + column_n, mask=inside_n, other=0.0)
        negative_n = tl.load(negative_N + column_n, mask=inside_n, other=0.0)
        positive_n = tl.load(positive_N + column_n, mask=inside_n, other=0.0)
        product_rn = tl.load(product_RN + offset_rn, mask=inside_rn, other=0.0).to(tl.float32)
        cosine_rn = product_rn * inverse_r[:, None]
        power_rn = tl.exp2(cosine_rn * log2_scale - log2_total_n[None, :])
        value_rn = power_rn * negative_n[None, :]
        if HAS_LIMIT:
            value_rn = tl.where(cosine_rn > limit, 0.0, value_rn)
        value_rn = tl.where(row_r[:, None] == own_n[None, :], positive_n[None, :], value_rn)
        if HAS_ABSENT:
            part_n = tl.load(part_N + column_n, mask=inside_n, other=0)
            absent_rn = tl.load(
                absent_RK + row_r.to(tl.int64)[:, None] * parts + part_n[None, :],
                mask=inside_rn,
                other=0,
            )
            value_rn = tl.where(absent_rn != 0, 0.0, value_rn)
        radial_rn += tl.where(inside_rn, value_rn * cosine_rn, 0.0)
        slope_rn = (value_rn * inverse_r[:, None]).to(slope_RN.dtype.element_ty)
        tl.store(slope_RN + offset_rn, slope_rn, mask=inside_rn)
    radial_r = tl.sum(radial_rn, axis=1) * inverse_r * inverse_r
    tl.store(radial_R + row_r, radial_r, mask=inside_r)


def slope_block(
    product_RN: torch.Tensor,
    inverse_R: torch.Tensor,
    own_N: torch.Tensor,
    log2_scale: float,
    limit: float | None,
    log2_total_N: torch.Tensor,
    negative_N: torch.Tensor,
    positive_N: torch.Tensor,
    *,
    absent_RK: torch.Tensor | None = None,
    part_N: torch.Tensor | None = None,
    in_place: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `BlockOps.slope_block`."""
    rows, samples = product_RN.shape
    slope_RN = product_RN if in_place else torch.empty_like(product_RN)
    if rows == 0 or samples == 0:
        return slope_RN, inverse_R.new_zeros(rows)
    radial_R = torch.empty_like(inverse_R)
    if absent_RK is None:
        absent, parts = own_N, 0
    else:
        absent, parts = absent_RK.view(torch.uint8), absent_RK.shape[1]
    _block_slopes[(triton.cdiv(rows, _ROWS),)](
        product_RN,
        inverse_R,
        own_N,
        log2_total_N,
        negative_N,
        positive_N,
        absent,
        own_N if part_N is None else part_N,
        slope_RN,
        radial_R,
        rows,
        samples,
        parts,
        log2_scale,
        *limit_arguments(limit),
        HAS_ABSENT=absent_RK is not None,
        BLOCK_R=_ROWS,
        BLOCK_N=_SAMPLES,
        num_warps=_WARPS,
    )
    return slope_RN, radial_R
