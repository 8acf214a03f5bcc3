"""Triton kernels of the online softmax over a block of products.

Sums over the rows of a block are made in two steps, first within a chunk of rows by one program,
then over the chunks by another: the order of every sum is fixed by the shapes, no atomic adds, so
a result repeats to the bit. Importing this module needs Triton.

Where the scale is too small for any cosine to take a power out of float32's range
(`SAFE_LOG2_SCALE`), no peak is looked for: the products are read once, not twice, and two of four
launches fall away.

Shapes: R rows of one block, N samples, G chunks of rows; a program's tile in small letters.
Pointers carry the shape of what they point at.
"""

import torch
import triton
import triton.language as tl

from recognition.head.kernels.jit import kernel, limit_arguments, own_rows
from recognition.head.kernels.reference import FIXED_PEAK, SAFE_LOG2_SCALE

# Columns of a tile: 128 neighbouring samples, 256 bytes of bfloat16, so two full cache lines a
# row. Rows of a tile: 32, which with four warps is 32 numbers a thread. A program walks 128 rows:
# at N = 1024 and R = 8192 that is 512 programs, some four for each of 132 multiprocessors, and
# partial sums of 1/64 of the block's size.
_SAMPLES = 128
_ROWS = 32
_CHUNK = 128
_WARPS = 4

# The merges read [G, N] float32, 256 KiB at the sizes above: launch time is all they cost.
_MERGE_CHUNKS = 32
_MERGE_SAMPLES = 32


@kernel()
def _negative_logits(
    product_RN: tl.tensor,
    inverse_R: tl.tensor,
    own_n: tl.tensor,
    row_r: tl.tensor,
    column_n: tl.tensor,
    rows: tl.tensor,
    samples: tl.tensor,
    log2_scale: tl.tensor,
    limit: tl.tensor,
    HAS_LIMIT: tl.constexpr,
) -> tl.tensor:
    """Return a tile's logits to base 2, −inf for own classes, filtered ones and no rows at all.

    Also returns the offsets and the inverse norms.
    """
    inside_r = row_r < rows
    inside_rn = inside_r[:, None] & (column_n < samples)[None, :]
    offset_rn = row_r.to(tl.int64)[:, None] * samples + column_n[None, :]
    product_rn = tl.load(product_RN + offset_rn, mask=inside_rn, other=0.0).to(tl.float32)
    inverse_r = tl.load(inverse_R + row_r, mask=inside_r, other=0.0)
    cosine_rn = product_rn * inverse_r[:, None]
    left_out_rn = (row_r[:, None] == own_n[None, :]) | (row_r >= rows)[:, None]
    if HAS_LIMIT:
        left_out_rn = left_out_rn | (cosine_rn > limit)
    logit_rn = tl.where(left_out_rn, float("-inf"), cosine_rn * log2_scale)
    return logit_rn, inverse_r, offset_rn, inside_rn


@kernel(varying=["rows"])
def _block_peaks(
    product_RN: tl.tensor,
    inverse_R: tl.tensor,
    own_N: tl.tensor,
    peak_GN: tl.tensor,
    rows: tl.tensor,
    samples: tl.tensor,
    log2_scale: tl.tensor,
    limit: tl.tensor,
    HAS_LIMIT: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_N: tl.constexpr,
) -> None:
    """Write each sample's largest logit of each chunk of rows."""
    parts = tl.cdiv(samples, BLOCK_N)
    chunk = tl.program_id(0) // parts
    column_n = (tl.program_id(0) % parts) * BLOCK_N + tl.arange(0, BLOCK_N)
    own_n = own_rows(own_N, column_n, rows, samples)
    peak_rn = tl.full([BLOCK_R, BLOCK_N], float("-inf"), tl.float32)
    for first in range(0, CHUNK, BLOCK_R):
        row_r = chunk * CHUNK + first + tl.arange(0, BLOCK_R)
        logit_rn, _, _, _ = _negative_logits(
            product_RN,
            inverse_R,
            own_n,
            row_r,
            column_n,
            rows,
            samples,
            log2_scale,
            limit,
            HAS_LIMIT,
        )
        peak_rn = tl.maximum(peak_rn, logit_rn)
    peak_n = tl.max(peak_rn, axis=0)
    tl.store(peak_GN + chunk.to(tl.int64) * samples + column_n, peak_n, mask=column_n < samples)


@kernel(varying=["chunks"])
def _merge_peaks(
    peak_GN: tl.tensor,
    peak_N: tl.tensor,
    shrink_N: tl.tensor,
    chunks: tl.tensor,
    samples: tl.tensor,
    BLOCK_G: tl.constexpr,
    BLOCK_N: tl.constexpr,
) -> None:
    """Raise each sample's peak to those of the chunks; write what its mass shrinks by."""
    column_n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside_n = column_n < samples
    raised_gn = tl.full([BLOCK_G, BLOCK_N], float("-inf"), tl.float32)
    for first in range(0, chunks, BLOCK_G):
        chunk_g = first + tl.arange(0, BLOCK_G)
        peak_gn = tl.load(
            peak_GN + chunk_g.to(tl.int64)[:, None] * samples + column_n[None, :],
            mask=(chunk_g < chunks)[:, None] & inside_n[None, :],
            other=float("-inf"),
        )
        raised_gn = tl.maximum(raised_gn, peak_gn)
    peak_n = tl.load(peak_N + column_n, mask=inside_n, other=0.0)
    raised_n = tl.maximum(peak_n, tl.max(raised_gn, axis=0))
    tl.store(shrink_N + column_n, tl.exp2(peak_n - raised_n), mask=inside_n)
    tl.store(peak_N + column_n, raised_n, mask=inside_n)


@kernel(varying=["rows"])
def _block_shares(
    product_RN: tl.tensor,
    inverse_R: tl.tensor,
    own_N: tl.tensor,
    peak_N: tl.tensor,
    mass_GN: tl.tensor,
    rows: tl.tensor,
    samples: tl.tensor,
    log2_scale: tl.tensor,
    limit: tl.tensor,
    fixed_peak: tl.tensor,
    HAS_LIMIT: tl.constexpr,
    HAS_PEAK: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_N: tl.constexpr,
) -> None:
    """Make products into shares, in place, and write each sample's mass of each chunk of rows.

    Without `HAS_PEAK` every peak is `fixed_peak`.
    """
    parts = tl.cdiv(samples, BLOCK_N)
    chunk = tl.program_id(0) // parts
    column_n = (tl.program_id(0) % parts) * BLOCK_N + tl.arange(0, BLOCK_N)
    own_n = own_rows(own_N, column_n, rows, samples)
    if HAS_PEAK:
        peak_n = tl.load(peak_N + column_n, mask=column_n < samples, other=0.0)
    else:
        peak_n = tl.zeros([BLOCK_N], tl.float32) + fixed_peak
    mass_rn = tl.zeros([BLOCK_R, BLOCK_N], tl.float32)
    for first in range(0, CHUNK, BLOCK_R):
        row_r = chunk * CHUNK + first + tl.arange(0, BLOCK_R)
        logit_rn, inverse_r, offset_rn, inside_rn = _negative_logits(
            product_RN,
            inverse_R,
            own_n,
            row_r,
            column_n,
            rows,
            samples,
            log2_scale,
            limit,
            HAS_LIMIT,
        )
        power_rn = tl.exp2(logit_rn - peak_n[None, :])
        mass_rn += power_rn
        share_rn = power_rn * inverse_r[:, None]
        tl.store(product_RN + offset_rn, share_rn.to(product_RN.dtype.element_ty), mask=inside_rn)
    mass_n = tl.sum(mass_rn, axis=0)
    tl.store(mass_GN + chunk.to(tl.int64) * samples + column_n, mass_n, mask=column_n < samples)


@kernel(varying=["chunks"])
def _merge_masses(
    mass_GN: tl.tensor,
    shrink_N: tl.tensor,
    mass_N: tl.tensor,
    chunks: tl.tensor,
    samples: tl.tensor,
    HAS_PEAK: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_N: tl.constexpr,
) -> None:
    """Shrink each sample's mass, if `HAS_PEAK`, and add those of the chunks."""
    column_n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside_n = column_n < samples
    added_gn = tl.zeros([BLOCK_G, BLOCK_N], tl.float32)
    for first in range(0, chunks, BLOCK_G):
        chunk_g = first + tl.arange(0, BLOCK_G)
        added_gn += tl.load(
            mass_GN + chunk_g.to(tl.int64)[:, None] * samples + column_n[None, :],
            mask=(chunk_g < chunks)[:, None] & inside_n[None, :],
            other=0.0,
        )
    mass_n = tl.load(mass_N + column_n, mask=inside_n, other=0.0)
    if HAS_PEAK:
        mass_n *= tl.load(shrink_N + column_n, mask=inside_n, other=0.0)
    tl.store(mass_N + column_n, mass_n + tl.sum(added_gn, axis=0), mask=inside_n)


def softmax_block(
    product_RN: torch.Tensor,
    inverse_R: torch.Tensor,
    own_N: torch.Tensor,
    log2_scale: float,
    limit: float | None,
    peak_N: torch.Tensor,
    mass_N: torch.Tensor,
) -> torch.Tensor | None:
    """See `BlockOps.softmax_block`."""
    rows, samples = product_RN.shape
    if rows == 0 or samples == 0:
        return None
    has_peak = log2_scale > SAFE_LOG2_SCALE
    shrink_N = torch.empty_like(peak_N) if has_peak else None
    chunks = triton.cdiv(rows, _CHUNK)
    partial_GN = peak_N.new_empty(chunks, samples)
    grid = (chunks * triton.cdiv(samples, _SAMPLES),)
    merge_grid = (triton.cdiv(samples, _MERGE_SAMPLES),)
    block = {"CHUNK": _CHUNK, "BLOCK_R": _ROWS, "BLOCK_N": _SAMPLES, "num_warps": _WARPS}
    merge = {"BLOCK_G": _MERGE_CHUNKS, "BLOCK_N": _MERGE_SAMPLES, "num_warps": _WARPS}
    limit, has_limit = limit_arguments(limit)
    numbers = (rows, samples, log2_scale, limit)
    if has_peak:
        _block_peaks[grid](product_RN, inverse_R, own_N, partial_GN, *numbers, has_limit, **block)
        _merge_peaks[merge_grid](partial_GN, peak_N, shrink_N, chunks, samples, **merge)
    _block_shares[grid](
        product_RN, inverse_R, own_N, peak_N, partial_GN, *numbers, FIXED_PEAK, has_limit,
        has_peak, **block,
    )  # fmt: skip
    _merge_masses[merge_grid](
        partial_GN, peak_N if shrink_N is None else shrink_N, mass_N, chunks, samples, has_peak,
        **merge,
    )  # fmt: skip
    return shrink_N
