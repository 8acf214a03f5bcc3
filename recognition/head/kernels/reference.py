"""The block operations in torch: their definition on any device, and the CPU's path.

Shapes: L rows of the table, A active rows, R rows of one block, N samples, d embedding size.
"""

import math

import torch

from recognition.head.kernels.workspace import Workspace
from recognition.head.optim.rounding import RowNoise
from recognition.head.optim.row_optimizers import RowSGD

EPSILON = 1e-12  # smallest norm that is divided by, as in torch.nn.functional.normalize

# A sum of 2^30 powers of 2^96 is below float32's largest number, 2^128, and 2^-96 above its
# smallest; in the usual terms, a scale of up to 66. A share is such a power over a centre's norm,
# which may be 1e-12, some 2^-40, and a gradient takes sums back by up to 2^96 times the scale: a
# peak between keeps both in range. Shares get lost only where a sample is opposite to all its
# negatives (cosines near -1) and their norms are above some 1e5.
FIXED_PEAK = 17.0
SAFE_LOG2_SCALE = 96.0
_NO_PEAK = -1e30  # below any logit, and finite: its difference to itself is 0, not NaN


def start_peak(log2_bound: float) -> float:
    """Return the peak before the first block, for logits to base 2 within ±`log2_bound`.

    A peak keeps powers in range. Where the bound alone keeps powers and their sums in range, one
    peak does for all, and finding the largest logit is saved: `FIXED_PEAK`.
    """
    return FIXED_PEAK if log2_bound <= SAFE_LOG2_SCALE else _NO_PEAK


def inverse_norm(row_Rd: torch.Tensor) -> torch.Tensor:
    """Equals `1 / row_Rd.norm(dim=1).clamp_min(1e-12)`: float32 [R]."""
    norm_R: torch.Tensor = torch.linalg.vector_norm(row_Rd, dim=1)
    return norm_R.clamp_min_(EPSILON).reciprocal_()


def tangential(gradient_Rd: torch.Tensor, row_Rd: torch.Tensor) -> torch.Tensor:
    """Take off each gradient's part along its row, in place; both float32.

    What a cosine's gradient is beyond the pull of the samples: a step stays perpendicular.
    """
    along_R = (gradient_Rd * row_Rd).sum(1).mul_(inverse_norm(row_Rd).square_())
    return gradient_Rd.addcmul_(row_Rd, along_R.unsqueeze(1), value=-1.0)


class TorchOps:
    """The block operations in torch. See `BlockOps` for what each does.

    Rows that are read may stand in the workspace: they hold until rows are read again.

    Args:
        space: for temporaries and rows; default one of its own.
    """

    updates_in_place = False

    def __init__(self, space: Workspace | None = None) -> None:
        self._space = Workspace() if space is None else space

    def read_rows(
        self,
        weight_Ld: torch.Tensor,
        index_A: torch.Tensor | None,
        start: int,
        stop: int,
        dtype: torch.dtype,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `BlockOps.read_rows`."""
        row_Rd = weight_Ld[start:stop]
        if index_A is not None:
            row_Rd = self._space.like("rows", weight_Ld[: stop - start], weight_Ld.dtype)
            torch.index_select(weight_Ld, 0, index_A[start:stop], out=row_Rd)
        inverse_R = inverse_norm(row_Rd)
        if dtype == row_Rd.dtype:
            return row_Rd, inverse_R
        return self._space.like("factor", row_Rd, dtype).copy_(row_Rd), inverse_R

    def softmax_block(
        self,
        product_RN: torch.Tensor,
        inverse_R: torch.Tensor,
        own_N: torch.Tensor,
        log2_scale: float,
        limit: float | None,
        peak_N: torch.Tensor,
        mass_N: torch.Tensor,
    ) -> torch.Tensor | None:
        """See `BlockOps.softmax_block`."""
        if product_RN.shape[0] == 0:
            return None
        inverse_R1 = inverse_R.unsqueeze(1)
        logit_RN = product_RN
        if product_RN.dtype != torch.float32:
            logit_RN = self._space.like("logit", product_RN, torch.float32)
        torch.mul(product_RN, inverse_R1 * log2_scale, out=logit_RN)
        if limit is not None:
            logit_RN.masked_fill_(logit_RN > limit * log2_scale, -math.inf)
        put_own(logit_RN, own_N, peak_N.new_full((), -math.inf))
        factor, shrink_N = take_in(logit_RN, log2_scale, peak_N, mass_N)
        logit_RN.mul_(inverse_R1 * factor)
        if logit_RN is not product_RN:
            product_RN.copy_(logit_RN)
        return shrink_N

    def add_own(
        self,
        gradient_Rd: torch.Tensor,
        weight_Ld: torch.Tensor,
        index_A: torch.Tensor | None,
        start: int,
        own_N: torch.Tensor,
        own_Nd: torch.Tensor,
    ) -> None:
        """See `BlockOps.add_own`."""
        if gradient_Rd.shape[0] == 0:
            return
        inside_N = (own_N >= 0) & (own_N < gradient_Rd.shape[0])
        place_N = own_N.clamp(0, gradient_Rd.shape[0] - 1)
        row_N = place_N + start if index_A is None else index_A[place_N + start]
        inverse_N = inverse_norm(weight_Ld.index_select(0, row_N))
        # Those of other blocks add zeros, so that nothing is selected and no GPU waited for.
        added_Nd = torch.where(inside_N.unsqueeze(1), own_Nd * inverse_N.unsqueeze(1), 0.0)
        gradient_Rd.index_put_((place_N,), added_Nd.to(gradient_Rd.dtype), accumulate=True)

    def update_rows_sgd(
        self,
        weight_Ld: torch.Tensor,
        momentum_Ld: torch.Tensor,
        index_A: torch.Tensor | None,
        start: int,
        stop: int,
        gradient_Rd: torch.Tensor,
        *,
        lr: float,
        momentum: float,
        weight_decay: float,
        nesterov: bool = False,
        noise: RowNoise | None = None,
    ) -> None:
        """See `BlockOps.update_rows_sgd`."""
        index_R = None if index_A is None else index_A[start:stop]
        row_Rd = _rows(weight_Ld, index_R, start, stop)
        velocity_Rd = _rows(momentum_Ld, index_R, start, stop)
        slope_Rd = tangential(gradient_Rd.to(torch.float32, copy=True), row_Rd)
        optimizer = RowSGD(momentum, weight_decay, nesterov, momentum_Ld.dtype)
        if noise is None:
            assert momentum_Ld.dtype == torch.float32, "rounding needs noise"
            noise = RowNoise(0, 0, torch.zeros(0, dtype=torch.int64))  # not looked at
        optimizer.update(row_Rd, {"momentum": velocity_Rd}, slope_Rd, lr, noise)
        if index_R is not None:
            weight_Ld.index_copy_(0, index_R, row_Rd)
            momentum_Ld.index_copy_(0, index_R, velocity_Rd)


def take_in(
    logit_RN: torch.Tensor, log2_bound: float, peak_N: torch.Tensor, mass_N: torch.Tensor
) -> tuple[float, torch.Tensor | None]:
    """Take logits to base 2 into each sample's online softmax; all three change in place.

    Logits, within ±`log2_bound`, become powers. Returns a factor that makes them
    `2^(logit − new peak)`; and what sums at the old peak shrink by, [N], None where the peak is
    `FIXED_PEAK` (see `start_peak`), whose part of the power is left to the factor.
    """
    shrink_N, factor = None, 1.0
    if log2_bound <= SAFE_LOG2_SCALE:
        logit_RN.exp2_()
        factor = 2.0**-FIXED_PEAK
    else:
        raised_N = torch.maximum(peak_N, logit_RN.amax(0))
        shrink_N = torch.exp2(peak_N.sub_(raised_N))
        peak_N.copy_(raised_N)
        logit_RN.sub_(peak_N).exp2_()
        mass_N.mul_(shrink_N)
    mass_N.add_(logit_RN.sum(0), alpha=factor)
    return factor, shrink_N


def put_own(block_RN: torch.Tensor, row_N: torch.Tensor, value: torch.Tensor) -> None:
    """Set `block_RN[row_N[n], n] = value[n]` for the samples whose row is in the block.

    Without selecting those samples, which on a GPU would make the host wait: the others write
    back what stands there already. No two samples share a column, so no two writes collide.
    """
    if block_RN.shape[0] == 0:
        return
    inside_N = (row_N >= 0) & (row_N < block_RN.shape[0])
    row_N = row_N.clamp(0, block_RN.shape[0] - 1)
    column_N = torch.arange(block_RN.shape[1], device=block_RN.device)
    value_N = torch.where(inside_N, value, block_RN[row_N, column_N])
    block_RN.index_put_((row_N, column_N), value_N)


def _rows(
    table_Ld: torch.Tensor, index_R: torch.Tensor | None, start: int, stop: int
) -> torch.Tensor:
    return table_Ld[start:stop] if index_R is None else table_Ld.index_select(0, index_R)
