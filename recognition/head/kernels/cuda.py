"""The block operations on CUDA, in Triton kernels. Needs Triton.

Shapes: R rows of a block, N samples, d embedding size.
"""

import torch
import triton
from torch import Tensor

from recognition.head.kernels import triton_rows, triton_softmax
from recognition.head.kernels.block import FIXED_MAX, Block, LogitTransform
from recognition.head.kernels.reference import EPSILON, BlockOps
from recognition.head.optim.rounding import RowNoise
from recognition.head.optim.row_optimizers import RowSGD

_WARPS = 4

# Columns of a tile: 128 neighbouring samples, 256 bytes of bfloat16, so two full cache lines per
# row. Rows of a tile: 32, which with four warps is 32 numbers per thread. A program takes 128
# rows: at N = 1024 and R = 8192 that is 512 programs, some four for each of 132 multiprocessors,
# and partial sums of 1/64 of the block's size.
_SAMPLES = 128
_CHUNK = 128
_SOFTMAX_TILE = {"CHUNK": _CHUNK, "BLOCK_R": 32, "BLOCK_N": _SAMPLES, "num_warps": _WARPS}

# The merges read [G, N] float32, 256 KiB at the sizes above: launch time is all they cost.
_MERGE_SAMPLES = 32
_MERGE_TILE = {"BLOCK_G": 32, "BLOCK_N": _MERGE_SAMPLES, "num_warps": _WARPS}

# One program takes 2,048 numbers of the table with four warps: 16 per thread, four loads of 16
# bytes each, so that a multiprocessor with 16 such programs has 128 KiB in flight. By Little's
# law some 25 KiB keep 4.8 TB/s busy over 132 multiprocessors at 700 ns of latency (estimates).
_ROW_TILE = 2048
_LONGEST_D = 1024  # a row longer than this is taken in pieces


class TritonOps(BlockOps):
    """The block operations in Triton kernels; torch's for several centres and for curricula."""

    def read_rows(self, block: Block, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """See `BlockOps.read_rows`."""
        weight, rows = block.tensors["weight"], len(block)
        size = weight.shape[1]
        inverse_R, factor_Rd = weight.new_empty(rows), weight
        has_factor = block.index is not None or dtype != weight.dtype
        if has_factor:
            factor_Rd = weight.new_empty(rows, size, dtype=dtype)
        if rows > 0:
            block_r, block_d = _row_tile(size)
            triton_rows.read_rows[(triton.cdiv(rows, block_r),)](
                weight, inverse_R if block.index is None else block.index, factor_Rd, inverse_R,
                rows, size, EPSILON, HAS_INDEX=block.index is not None, HAS_FACTOR=has_factor,
                BLOCK_R=block_r, BLOCK_D=block_d, num_warps=_WARPS,
            )  # fmt: skip
        return factor_Rd, inverse_R

    def softmax_block(
        self, product_CN: Tensor, inverse_C: Tensor, target_N: Tensor, transform: LogitTransform,
        running_max_N: Tensor, sum_exp_N: Tensor,
    ) -> Tensor | None:  # fmt: skip
        """See `BlockOps.softmax_block`.

        With the fixed maximum, products are read once, not twice, and two of four launches fall
        away.
        """
        if not transform.is_plain:
            statistics = running_max_N, sum_exp_N
            return super().softmax_block(product_CN, inverse_C, target_N, transform, *statistics)
        rows, samples = product_CN.shape
        if rows == 0 or samples == 0:
            return None
        has_max = not transform.max_is_fixed
        rescale_N = torch.empty_like(running_max_N) if has_max else None
        chunks = triton.cdiv(rows, _CHUNK)
        partial_GN = running_max_N.new_empty(chunks, samples)
        grid = (chunks * triton.cdiv(samples, _SAMPLES),)
        merge_grid = (triton.cdiv(samples, _MERGE_SAMPLES),)
        numbers = (rows, samples, transform.log2_scale, transform.limit)
        if has_max:
            triton_softmax.block_maxima[grid](
                product_CN, inverse_C, target_N, partial_GN, *numbers, **_SOFTMAX_TILE
            )
            triton_softmax.merge_maxima[merge_grid](
                partial_GN, running_max_N, rescale_N, chunks, samples, **_MERGE_TILE
            )
        triton_softmax.block_exps[grid](
            product_CN, inverse_C, target_N, running_max_N, partial_GN, *numbers, FIXED_MAX,
            has_max, **_SOFTMAX_TILE,
        )  # fmt: skip
        triton_softmax.merge_sums[merge_grid](
            partial_GN, running_max_N if rescale_N is None else rescale_N, sum_exp_N, chunks,
            samples, has_max, **_MERGE_TILE,
        )  # fmt: skip
        return rescale_N

    def add_targets(
        self, block: Block, grad_unit_Rd: Tensor, target_N: Tensor, grad_Nd: Tensor
    ) -> None:
        """See `BlockOps.add_targets`."""
        rows, size = grad_unit_Rd.shape
        if rows > 0 and len(target_N) > 0:
            triton_rows.add_targets[(len(target_N),)](
                grad_unit_Rd, block.tensors["weight"],
                target_N if block.index is None else block.index, target_N, grad_Nd, rows, size,
                EPSILON, HAS_INDEX=block.index is not None, BLOCK_D=_row_tile(size)[1],
                num_warps=_WARPS,
            )  # fmt: skip

    def update_rows_sgd(
        self, block: Block, grad_unit_Rd: Tensor, sgd: RowSGD, lr: float, noise: RowNoise | None
    ) -> None:
        """See `BlockOps.update_rows_sgd`."""
        assert noise is not None or not sgd.rounds, "rounding needs noise"
        rows, size = grad_unit_Rd.shape
        if rows == 0:
            return
        block_r, block_d = _row_tile(size)
        unread = grad_unit_Rd  # in place of a pointer that is not read
        triton_rows.update_rows_sgd[(triton.cdiv(rows, block_r),)](
            block.tensors["weight"], block.tensors["momentum"],
            unread if block.index is None else block.index, grad_unit_Rd, rows, size, lr,
            sgd.momentum, sgd.weight_decay, EPSILON, unread if noise is None else noise.class_id,
            *((0, 0) if noise is None else map(_signed, noise.word_keys())),
            HAS_INDEX=block.index is not None, NESTEROV=sgd.nesterov, ROUNDED=sgd.rounds,
            BLOCK_R=block_r, BLOCK_D=block_d, num_warps=_WARPS,
        )  # fmt: skip


def _row_tile(size: int) -> tuple[int, int]:
    """Return rows and columns of a program's tile; powers of two."""
    block_d = min(int(triton.next_power_of_2(size)), _LONGEST_D)
    return max(1, _ROW_TILE // block_d), block_d


def _signed(word: int) -> int:
    """Return the int32 with the same bits: Triton would compile again for each width of integer."""
    return word - ((word & 0x80000000) << 1)
