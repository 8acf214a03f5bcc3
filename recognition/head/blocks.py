"""What is done to one block's products of centres and samples, between the matrix products.

Shapes: R classes of the block, K centres a class, C = R·K centres, S samples.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch

from recognition.head.loss import Curriculum


@dataclass(frozen=True)
class Rule:
    """How the cosine with a negative class becomes a logit.

    Attributes:
        log2_scale: the scale of logits to base 2.
        inter_class_filter: negatives with a cosine above it are left out; None leaves none out.
        curriculum: which negatives count for more; None if none does.
        centres: K; a class's cosine is the largest of its centres'.
    """

    log2_scale: float
    inter_class_filter: float | None
    curriculum: Curriculum | None
    centres: int


class Weights(Protocol):
    """Each sample's part in the gradient, [S]; see `streaming.CentreLoss`."""

    @property
    def place(self) -> torch.Tensor:
        """Which of the own class's K centres is the sample's: int64."""
        ...

    @property
    def log2_total(self) -> torch.Tensor:
        """Log2 of the sum of the negatives' exponentials: float32."""
        ...

    @property
    def negative(self) -> torch.Tensor:
        """Derivative of the loss by the negatives' log-sum-exp, times scale: float32."""
        ...

    @property
    def positive(self) -> torch.Tensor:
        """Derivative of the loss by the cosine with the own centre: float32."""
        ...


def softmax_block(
    product_CS: torch.Tensor,
    inverse_C: torch.Tensor,
    position_S: torch.Tensor,
    rule: Rule,
    peak_S: torch.Tensor,
    mass_S: torch.Tensor,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Add a block's negatives to the samples' statistics, in place.

    Returns `(share_CS, shrink_S)`: in `dtype`, what each centre, not normalised, counts for in the
    sum of negatives at the new peak; and what sums at the old peak must be multiplied by.

    Args:
        product_CS: centres times normalised embeddings; not changed.
        inverse_C: float32, inverse norms of the centres.
        position_S: int64, each sample's own class in the block, outside [0, R) if it is not there.
        rule: scale, filter, curriculum, centres a class.
        peak_S: float32, largest logit so far, to base 2; raised in place.
        mass_S: float32, sum of exponentials at the peak; moved to the new peak and added to.
        dtype: of the result.
    """
    inverse_C1 = inverse_C.unsqueeze(1)
    cosine_RS, nearest_RS = _class_cosines(product_CS * inverse_C1, rule.centres)
    slope_RS = None
    if rule.inter_class_filter is not None:
        cosine_RS.masked_fill_(cosine_RS > rule.inter_class_filter, -math.inf)
    if rule.curriculum is not None:
        cosine_RS, slope_RS = _harden(cosine_RS, rule.curriculum)
    logit_RS = cosine_RS.mul_(rule.log2_scale)
    put_own(logit_RS, position_S, logit_RS.new_full((), -math.inf))
    raised_S = torch.maximum(peak_S, logit_RS.amax(0))
    shrink_S = torch.exp2(peak_S - raised_S)
    peak_S.copy_(raised_S)
    power_RS = logit_RS.sub_(raised_S).exp2_()
    mass_S.mul_(shrink_S).add_(power_RS.sum(0))
    if slope_RS is not None:
        power_RS.mul_(slope_RS)
    share_CS = _spread(power_RS, nearest_RS, rule.centres).mul_(inverse_C1)
    return share_CS.to(dtype), shrink_S


def slopes(
    product_CS: torch.Tensor,
    inverse_C: torch.Tensor,
    position_S: torch.Tensor,
    rule: Rule,
    weights: Weights,
    absent_RS: torch.Tensor | None,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the derivative of the loss by a block's products, and each centre's radial part.

    `(slope_CS, radial_C)`: with them the centres' gradient is
    `slope_CS @ unit_Sd − radial_C[:, None] * weight_Cd`.

    Args:
        product_CS: centres times normalised embeddings; not changed.
        inverse_C: float32, inverse norms of the centres.
        position_S: int64, each sample's own class in the block, outside [0, R) if it is not there.
        rule: scale, filter, curriculum, centres a class.
        weights: each sample's part.
        absent_RS: bool, classes that take no part for a sample; None if all do.
        dtype: of the slopes.
    """
    inverse_C1 = inverse_C.unsqueeze(1)
    cosine_CS = product_CS * inverse_C1
    cosine_RS, nearest_RS = _class_cosines(cosine_CS, rule.centres)
    logit_RS, bend_RS = cosine_RS, None
    if rule.curriculum is not None:
        logit_RS, bend_RS = _harden(cosine_RS.clone(), rule.curriculum)
    # d loss / d cosine: of each negative in proportion to its probability ...
    slope_RS = torch.mul(logit_RS, rule.log2_scale).sub_(weights.log2_total).exp2_()
    slope_RS.mul_(weights.negative)
    if bend_RS is not None:
        slope_RS.mul_(bend_RS)
    if rule.inter_class_filter is not None:
        slope_RS.masked_fill_(cosine_RS > rule.inter_class_filter, 0.0)
    if absent_RS is not None:
        slope_RS.masked_fill_(absent_RS, 0.0)
    # ... and of the own class as the loss has it, all of it to the sample's own centre.
    if rule.centres > 1:
        put_own(slope_RS, position_S, slope_RS.new_zeros(()))
    slope_CS = _spread(slope_RS, nearest_RS, rule.centres)
    inside_S = (position_S >= 0) & (position_S < slope_RS.shape[0])
    centre_S = torch.where(inside_S, position_S * rule.centres + weights.place, -1)
    put_own(slope_CS, centre_S, weights.positive)
    radial_C = (cosine_CS.mul_(slope_CS)).sum(1).mul_(inverse_C).mul_(inverse_C)
    return slope_CS.mul_(inverse_C1).to(dtype), radial_C


def put_own(block_RS: torch.Tensor, row_S: torch.Tensor, value: torch.Tensor) -> None:
    """Set `block_RS[row_S[s], s] = value[s]` for the samples whose row is in the block.

    Without selecting those samples, which on a GPU would make the host wait: the others write
    back what stands there already. No two samples share a column, so no two writes collide.
    """
    inside_S = (row_S >= 0) & (row_S < block_RS.shape[0])
    row_S = row_S.clamp(0, block_RS.shape[0] - 1)
    column_S = torch.arange(block_RS.shape[1], device=block_RS.device)
    value_S = torch.where(inside_S, value, block_RS[row_S, column_S])
    block_RS.index_put_((row_S, column_S), value_S)


def _class_cosines(
    cosine_CS: torch.Tensor, centres: int
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return each class's cosine, [R, S], and which of its centres has it; None if it has one."""
    if centres == 1:
        return cosine_CS, None
    classes = cosine_CS.shape[0] // centres
    largest = cosine_CS.view(classes, centres, cosine_CS.shape[1]).max(1)
    return largest.values, largest.indices


def _spread(value_RS: torch.Tensor, nearest_RS: torch.Tensor | None, centres: int) -> torch.Tensor:
    """Give each class's value to its nearest centre and zeros to the others: [C, S]."""
    if nearest_RS is None:
        return value_RS
    spread = value_RS.new_zeros(value_RS.shape[0], centres, value_RS.shape[1])
    spread.scatter_(1, nearest_RS.unsqueeze(1), value_RS.unsqueeze(1))
    return spread.flatten(0, 1)


def _harden(cosine_RS: torch.Tensor, curriculum: Curriculum) -> tuple[torch.Tensor, torch.Tensor]:
    """Make hard negatives' cosines c into `c·(t + c)`, in place; return them and the derivative."""
    hard_RS = cosine_RS > curriculum.bound
    slope_RS = torch.where(hard_RS, curriculum.boost + 2.0 * cosine_RS, 1.0)
    changed_RS = torch.where(hard_RS, cosine_RS * (curriculum.boost + cosine_RS), cosine_RS)
    return cosine_RS.copy_(changed_RS), slope_RS
