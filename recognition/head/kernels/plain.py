"""The block operations in torch: their definition on any device, and the CPU's path.

Shapes: L rows of the table, A active rows, R rows of one block, N samples, d embedding size, K
micro-batches.
"""

import math

import torch

from recognition.head.kernels.workspace import Workspace
from recognition.head.rounding import RowNoise
from recognition.head.row_optimizers import RowSGD

EPSILON = 1e-12  # smallest norm that is divided by, as in torch.nn.functional.normalize

# A sum of 2^30 powers of 2^96 is below float32's largest number, 2^128, and 2^-96 above its
# smallest; in the usual terms, a scale of up to 66. A share is such a power over a centre's norm,
# which may be 1e-12, some 2^-40, and a gradient takes sums back by up to 2^96 times the scale: a
# peak between keeps both in range.
FIXED_PEAK = 17.0
SAFE_LOG2_SCALE = 96.0


def inverse_norm(row_Rd: torch.Tensor) -> torch.Tensor:
    """Equals `1 / row_Rd.norm(dim=1).clamp_min(1e-12)`: float32 [R]."""
    norm_R: torch.Tensor = torch.linalg.vector_norm(row_Rd, dim=1)
    return norm_R.clamp_min_(EPSILON).reciprocal_()


class TorchOps:
    """The block operations in torch. See `BlockOps` for what each does.

    Results may be in the workspace: rows hold until rows are read again, shares and slopes until
    one or the other is made again.

    Args:
        space: for temporaries and results; default one of its own.
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
        *,
        in_place: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `BlockOps.softmax_block`."""
        if product_RN.shape[0] == 0:
            return product_RN, torch.ones_like(peak_N)
        inverse_R1 = inverse_R.unsqueeze(1)
        logit_RN = torch.mul(
            product_RN, inverse_R1 * log2_scale, out=self._float("logit", product_RN, in_place)
        )
        if limit is not None:
            logit_RN.masked_fill_(logit_RN > limit * log2_scale, -math.inf)
        put_own(logit_RN, own_N, peak_N.new_full((), -math.inf))
        power_RN, factor, shrink_N = take_in(logit_RN, log2_scale, peak_N, mass_N)
        return self._back(power_RN.mul_(inverse_R1 * factor), product_RN, in_place), shrink_N

    def slope_block(
        self,
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
        inverse_R1 = inverse_R.unsqueeze(1)
        logit_RN = torch.mul(
            product_RN, inverse_R1 * log2_scale, out=self._float("logit", product_RN, in_place)
        )
        slope_RN = self._space.like("slope", product_RN, torch.float32)
        # d loss / d cosine: of each negative in proportion to its probability ...
        torch.sub(logit_RN, log2_total_N, out=slope_RN).exp2_().mul_(negative_N)
        if limit is not None:
            slope_RN.masked_fill_(logit_RN > limit * log2_scale, 0.0)
        # ... and of the own class as the loss has it.
        put_own(slope_RN, own_N, positive_N)
        if absent_RK is not None:
            assert part_N is not None, "absent_RK says which micro-batch, part_N whose sample"
            slope_RN.masked_fill_(absent_RK[:, part_N], 0.0)
        radial_R = logit_RN.mul_(slope_RN).sum(1).mul_(inverse_R.square()).div_(log2_scale)
        return self._back(slope_RN.mul_(inverse_R1), product_RN, in_place), radial_R

    def update_rows_sgd(
        self,
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
        index_R = None if index_A is None else index_A[start:stop]
        row_Rd = _rows(weight_Ld, index_R, start, stop)
        velocity_Rd = _rows(momentum_Ld, index_R, start, stop)
        slope_Rd = gradient_Rd.float().addcmul(row_Rd, radial_R.unsqueeze(1), value=-1.0)
        optimizer = RowSGD(momentum, weight_decay, nesterov, momentum_Ld.dtype)
        if noise is None:
            assert momentum_Ld.dtype == torch.float32, "rounding needs noise"
            noise = RowNoise(0, 0, torch.zeros(0, dtype=torch.int64))  # not looked at
        optimizer.update(row_Rd, {"momentum": velocity_Rd}, slope_Rd, lr, noise)
        if index_R is not None:
            weight_Ld.index_copy_(0, index_R, row_Rd)
            momentum_Ld.index_copy_(0, index_R, velocity_Rd)

    def _float(self, name: str, product_RN: torch.Tensor, in_place: bool) -> torch.Tensor:
        """Return where float32 numbers of the products' shape may go."""
        if in_place and product_RN.dtype == torch.float32:
            return product_RN
        return self._space.like(name, product_RN, torch.float32)

    def _back(
        self, result_RN: torch.Tensor, product_RN: torch.Tensor, in_place: bool
    ) -> torch.Tensor:
        """Return the result in the products' dtype, and in their memory when asked."""
        if in_place:
            return product_RN if result_RN is product_RN else product_RN.copy_(result_RN)
        if result_RN.dtype == product_RN.dtype:
            return result_RN
        return self._space.like("result", result_RN, product_RN.dtype).copy_(result_RN)


def take_in(
    logit_RN: torch.Tensor, log2_bound: float, peak_N: torch.Tensor, mass_N: torch.Tensor
) -> tuple[torch.Tensor, float, torch.Tensor]:
    """Take logits to base 2 into each sample's online softmax; all three change in place.

    Returns powers, [R, N], and a factor that makes them `2^(logit − new peak)`; and what sums at
    the old peak shrink by, [N].

    A peak keeps powers in range. Logits are within ±`log2_bound`: the scale, for cosines. Where
    that alone keeps powers and their sums in range, one peak does for all, and finding the largest
    logit is saved: `FIXED_PEAK`, whose part of the power is left to the factor.
    """
    if log2_bound <= SAFE_LOG2_SCALE:
        shrink_N = torch.exp2(peak_N - FIXED_PEAK)
        peak_N.fill_(FIXED_PEAK)
        power_RN, factor = logit_RN.exp2_(), 2.0**-FIXED_PEAK
    else:
        raised_N = torch.maximum(peak_N, logit_RN.amax(0))
        shrink_N = torch.exp2(peak_N.sub_(raised_N))
        peak_N.copy_(raised_N)
        power_RN, factor = logit_RN.sub_(peak_N).exp2_(), 1.0
    mass_N.mul_(shrink_N).add_(power_RN.sum(0), alpha=factor)
    return power_RN, factor, shrink_N


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
