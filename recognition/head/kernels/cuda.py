"""The block operations on CUDA, in Triton kernels. Needs Triton.

Shapes: R rows of a block, N samples, d embedding size.
"""

from dataclasses import replace

import torch
import triton
from torch import Tensor

from recognition.head.kernels import triton_fused, triton_rows, triton_softmax
from recognition.head.kernels.block import FIXED_MAX, Block, LogitTransform
from recognition.head.kernels.reference import EPSILON, BlockOps, Coefficients
from recognition.head.optim.history import Missed
from recognition.head.optim.rounding import RowNoise
from recognition.head.optim.row_optimizers import RowOptimizer, RowSGD

_WARPS = 4

# Columns of a tile: 128 neighbouring samples, 256 bytes of bfloat16, so two full cache lines per
# row. Rows of a tile: 32, which with four warps is 32 numbers per thread. A program takes 128
# rows: at N = 1024 and R = 8192 that is 512 programs, some four for each of 132 multiprocessors,
# and partial sums of 1/64 of the block's size.
_SAMPLES = 128
_CHUNK = 128
_SOFTMAX_TILE = {"CHUNK": _CHUNK, "BLOCK_R": 32, "BLOCK_N": _SAMPLES, "num_warps": _WARPS}

# The tiles of the fused kernels: of 15, 15 and 11 the fastest on an H200, for blocks of 65,536
# rows, 1,024 samples and d = 512 (docs/benchmarks/machine_h200.md). With four warps several share a
# multiprocessor, and one's epilogue runs beside the products of another.
_EXPS_TILE = {"BLOCK_R": 128, "BLOCK_N": 128, "BLOCK_D": 64, "num_warps": 4, "num_stages": 3}
_COEFFICIENTS_TILE = {
    "BLOCK_R": 64, "BLOCK_N": 128, "BLOCK_D": 64, "num_warps": 4, "num_stages": 3,
}  # fmt: skip
_UPDATE_TILE = {"BLOCK_R": 64, "BLOCK_N": 64, "BLOCK_D": 128, "num_warps": 4, "num_stages": 4}

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

    reads_skip = True
    makes_up = False

    def fuses(self, transform: LogitTransform, dtype: torch.dtype) -> bool:
        """See `BlockOps.fuses`: products in bfloat16, whose float32 sums need no searched maximum.

        In float32 cuBLAS is as exact, and a Triton product slower.
        """
        return dtype == torch.bfloat16 and transform.is_plain and transform.max_is_fixed

    def row_bytes(self, samples: int, size: int, dtype: torch.dtype, *, lean: bool) -> int:
        """See `BlockOps.row_bytes`: the exponentials, the rows and their gradient."""
        if not lean:
            return super().row_bytes(samples, size, dtype, lean=lean)
        return dtype.itemsize * (samples + 2 * size)

    def sum_parts(self, block_rows: int) -> int:
        """See `BlockOps.sum_parts`: a part for each tile of rows."""
        return int(triton.cdiv(block_rows, _EXPS_TILE["BLOCK_R"]))

    def product_exps(
        self, block: Block, unit_Nd: Tensor, target_N: Tensor, transform: LogitTransform,
        out_RN: Tensor, sum_GN: Tensor | None,
    ) -> Tensor:  # fmt: skip
        """See `BlockOps.product_exps`."""
        factor_Rd, inverse_R = self._multiplied(block, unit_Nd.dtype)
        unread, has_sum = unit_Nd, sum_GN is not None
        self._launch_exps(
            block, transform, (factor_Rd, inverse_R, unit_Nd, target_N, out_RN),
            (sum_GN if sum_GN is not None else unread, *[unread] * 5), 1,
            HAS_SUM=has_sum, HAS_ABSENT=False, SECOND=False,
        )  # fmt: skip
        return factor_Rd

    def product_update(
        self, block: Block, unit_Nd: Tensor, coefficients: Coefficients, transform: LogitTransform,
        sgd: RowSGD, lr: float, noise: RowNoise | None, skip: Tensor | None = None,
    ) -> None:  # fmt: skip
        """See `BlockOps.product_update`."""
        weight = block.tensors["weight"]
        (rows, size), samples, device = (len(block), weight.shape[1]), len(unit_Nd), weight.device
        if rows == 0:
            return
        parts = triton.cdiv(samples, _COEFFICIENTS_TILE["BLOCK_N"])
        coefficient_RN = self.space.take("exp", (rows, samples), unit_Nd.dtype, device)
        along_PR = self.space.take("along", (parts, rows), torch.float32, device)
        factor_Rd, inverse_R = self._multiplied(block, unit_Nd.dtype)
        given, unread, absent_AB = coefficients, unit_Nd, coefficients.absent
        self._launch_exps(
            block, transform, (factor_Rd, inverse_R, unit_Nd, given.target, coefficient_RN),
            (
                unread, along_PR, given.weight, given.own,
                unread if absent_AB is None else absent_AB, given.batch,
            ),
            1 if absent_AB is None else absent_AB.shape[1],
            HAS_SUM=False, HAS_ABSENT=absent_AB is not None, SECOND=True,
        )  # fmt: skip
        grid = triton.cdiv(rows, _UPDATE_TILE["BLOCK_R"]) * triton.cdiv(
            size, _UPDATE_TILE["BLOCK_D"]
        )
        (index_R, row_R, skip_1), flags = _update_arguments(block, noise, skip)
        triton_fused.product_update[(grid,)](
            coefficient_RN, unit_Nd, *_weight(block), block.tensors["momentum"],
            index_R, inverse_R, along_PR, skip_1, row_R, parts, rows,
            samples, size, lr, sgd.momentum, sgd.weight_decay, *_noise_numbers(noise),
            **flags, NESTEROV=sgd.nesterov, ROUNDED=sgd.rounds,
            EVEN=samples % _UPDATE_TILE["BLOCK_N"] == 0, **_UPDATE_TILE,
        )  # fmt: skip

    def _multiplied(self, block: Block, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return what `read_rows` does of the rows as they are multiplied."""
        return self.read_rows(replace(block, low=None), dtype)

    def _launch_exps(
        self, block: Block, transform: LogitTransform, factors: tuple[Tensor, ...],
        pointers: tuple[Tensor, ...], batches: int, **flags: bool,
    ) -> None:  # fmt: skip
        rows, (samples, size) = len(block), factors[2].shape
        tile = _COEFFICIENTS_TILE if flags["SECOND"] else _EXPS_TILE
        if rows == 0 or samples == 0:
            return
        grid = triton.cdiv(rows, tile["BLOCK_R"]) * triton.cdiv(samples, tile["BLOCK_N"])
        triton_fused.product_exps[(grid,)](
            *factors, *pointers, batches, block.start, rows, samples, size, transform.log2_scale,
            transform.limit, FIXED_MAX, HAS_LIMIT=transform.inter_class_filter is not None,
            EVEN=size % tile["BLOCK_D"] == 0, **flags, **tile,
        )  # fmt: skip

    def read_rows(self, block: Block, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """See `BlockOps.read_rows`."""
        weight, rows = block.tensors["weight"], len(block)
        size, device = weight.shape[1], weight.device
        inverse_R, factor_Rd = torch.empty(rows, device=device), weight
        has_factor = block.index is not None or dtype != weight.dtype
        if has_factor:
            factor_Rd = self.space.take("factor", (rows, size), dtype, device)
        if rows > 0:
            block_r, block_d = _row_tile(size)
            triton_rows.read_rows[(triton.cdiv(rows, block_r),)](
                *_weight(block), inverse_R if block.index is None else block.index, factor_Rd,
                inverse_R, rows, size, EPSILON, HAS_INDEX=block.index is not None,
                SPLIT=block.low is not None, HAS_FACTOR=has_factor, BLOCK_R=block_r,
                BLOCK_D=block_d, num_warps=_WARPS,
            )  # fmt: skip
        return factor_Rd, inverse_R

    def softmax_block(
        self, product_CN: Tensor, inverse_C: Tensor, target_N: Tensor, first: int,
        transform: LogitTransform, running_max_N: Tensor, sum_exp_N: Tensor | None,
    ) -> Tensor | None:  # fmt: skip
        """See `BlockOps.softmax_block`.

        With the fixed maximum, products are read once, not twice, and two of four launches fall
        away.
        """
        if not transform.is_plain:
            statistics = running_max_N, sum_exp_N
            return super().softmax_block(
                product_CN, inverse_C, target_N, first, transform, *statistics
            )
        rows, samples = product_CN.shape
        if rows == 0 or samples == 0:
            return None
        has_max = not transform.max_is_fixed
        rescale_N = torch.empty_like(running_max_N) if has_max else None
        chunks = triton.cdiv(rows, _CHUNK)
        partial_GN = running_max_N.new_empty(chunks, samples)
        grid = (chunks * triton.cdiv(samples, _SAMPLES),)
        merge_grid = (triton.cdiv(samples, _MERGE_SAMPLES),)
        numbers = (first, rows, samples, transform.log2_scale, transform.limit)
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
        if sum_exp_N is not None:
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
                grad_unit_Rd, *_weight(block), target_N if block.index is None else block.index,
                target_N, grad_Nd, block.start, rows, size, EPSILON,
                HAS_INDEX=block.index is not None, SPLIT=block.low is not None,
                BLOCK_D=_row_tile(size)[1], num_warps=_WARPS,
            )  # fmt: skip

    def update_rows_sgd(
        self, block: Block, grad_unit_Rd: Tensor, sgd: RowSGD, lr: float, noise: RowNoise | None,
        skip: Tensor | None = None,
    ) -> None:  # fmt: skip
        """See `BlockOps.update_rows_sgd`."""
        rows, size = grad_unit_Rd.shape
        if rows == 0:
            return
        block_r, block_d = _row_tile(size)
        (index_R, row_R, skip_1), flags = _update_arguments(block, noise, skip)
        triton_rows.update_rows_sgd[(triton.cdiv(rows, block_r),)](
            *_weight(block), block.tensors["momentum"], index_R, grad_unit_Rd,
            skip_1, row_R, rows, size, lr, sgd.momentum, sgd.weight_decay, EPSILON,
            *_noise_numbers(noise), **flags, NESTEROV=sgd.nesterov, ROUNDED=sgd.rounds,
            BLOCK_R=block_r, BLOCK_D=block_d, num_warps=_WARPS,
        )  # fmt: skip

    def coast(
        self, block: Block, optimizer: RowOptimizer, missed: Missed, noise: RowNoise | None
    ) -> None:
        """See `BlockOps.coast`."""
        if not isinstance(optimizer, RowSGD) or optimizer.momentum == 0.0:
            super().coast(block, optimizer, missed, noise)
            return
        rows, size = len(block), block.tensors["weight"].shape[1]
        block_r, block_d = _row_tile(size)
        (index_R, row_R, _), flags = _update_arguments(block, noise, None)
        del flags["HAS_SKIP"]
        triton_rows.coast_rows[(triton.cdiv(rows, block_r),)](
            *_weight(block), block.tensors["momentum"], index_R, missed.products, missed.first,
            row_R, missed.stop, rows, size, *_noise_numbers(noise), **flags,
            ROUNDED=optimizer.rounds, BLOCK_R=block_r, BLOCK_D=block_d, num_warps=_WARPS,
        )  # fmt: skip


def _update_arguments(
    block: Block, noise: RowNoise | None, skip: Tensor | None
) -> tuple[list[Tensor], dict[str, bool]]:
    """Return what an update reads, and the flags of its kernel that say which of it is there.

    The block's rows in the tables and their numbers, int64 [R], and `skip`.
    """
    index_R = block.index
    row_R = None if noise is None or isinstance(noise.row, int) else noise.row
    unread = block.tensors["momentum"]  # in place of a pointer that is not read
    pointers = [unread if tensor is None else tensor for tensor in (index_R, row_R, skip)]
    return pointers, {
        "HAS_INDEX": index_R is not None, "SPLIT": block.low is not None,
        "HAS_CLASS": row_R is not None, "HAS_SKIP": skip is not None,
    }  # fmt: skip


def _weight(block: Block) -> tuple[Tensor, Tensor]:
    """Return the weight's upper and lower half; twice the whole where it is in one piece."""
    weight = block.tensors["weight"]
    return weight, weight if block.low is None else block.low


def _noise_numbers(noise: RowNoise | None) -> tuple[int, int, int]:
    """Return the class id of row 0 and the two keys of the noise; zeros without any."""
    if noise is None:
        return 0, 0, 0
    first_key, second_key = map(_signed, noise.word_keys())
    return noise.first_class, first_key, second_key


def _row_tile(size: int) -> tuple[int, int]:
    """Return rows and columns of a program's tile; powers of two."""
    block_d = min(int(triton.next_power_of_2(size)), _LONGEST_D)
    return max(1, _ROW_TILE // block_d), block_d


def _signed(word: int) -> int:
    """Return the int32 with the same bits: Triton would compile again for each width of integer."""
    return word - ((word & 0x80000000) << 1)
