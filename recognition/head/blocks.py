"""What is done to one block's products of centres and samples, between the matrix products.

For one centre a class and unchanged cosines that is `kernels`, in torch or in Triton. Here is the
choice, and the general form in torch: K centres a class, and hard negatives that count for more.

Shapes: R classes of the block, K centres a class, C = R·K centres, S samples, B micro-batches.
"""

import math
from dataclasses import dataclass

import torch

from recognition.head.kernels import BlockOps
from recognition.head.kernels.plain import put_own, take_in
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

    @property
    def log2_bound(self) -> float:
        """The largest size of a logit to base 2: `c·(t + c)` of a hard negative may be 2."""
        return self.log2_scale if self.curriculum is None else 2.0 * self.log2_scale

    @property
    def is_plain(self) -> bool:
        """Whether a class's cosine is its one centre's, as it is."""
        return self.curriculum is None and self.centres == 1


@dataclass(frozen=True)
class Weights:
    """Each sample's part in the gradient.

    Attributes:
        place: int64 [S], which of the own class's K centres is the sample's.
        log2_total: float32 [S], log2 of the sum of the negatives' exponentials.
        negative: float32 [S], derivative of the loss by the negatives' log-sum-exp, times scale.
        positive: float32 [S], derivative of the loss by the cosine with the own centre.
        part: int64 [S], the sample's micro-batch.
    """

    place: torch.Tensor
    log2_total: torch.Tensor
    negative: torch.Tensor
    positive: torch.Tensor
    part: torch.Tensor


def softmax_block(
    ops: BlockOps,
    product_CS: torch.Tensor,
    inverse_C: torch.Tensor,
    position_S: torch.Tensor,
    rule: Rule,
    peak_S: torch.Tensor,
    mass_S: torch.Tensor,
    *,
    in_place: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Add a block's negatives to the samples' statistics, in place; see `BlockOps.softmax_block`.

    Args:
        ops: the operations for this device.
        product_CS: centres times normalised embeddings.
        inverse_C: float32, inverse norms of the centres.
        position_S: int64, each sample's own class in the block, outside [0, R) if it is not there.
        rule: scale, filter, curriculum, centres a class.
        peak_S: float32, largest logit so far, to base 2; raised in place.
        mass_S: float32, sum of exponentials at the peak; moved to the new peak and added to.
        in_place: whether the products may be overwritten.

    Returns:
        What each centre, not normalised, counts for in the sum of negatives at the new peak, in
        the products' dtype; and what sums at the old peak must be multiplied by.
    """
    if rule.is_plain:
        return ops.softmax_block(
            product_CS, inverse_C, position_S, rule.log2_scale, rule.inter_class_filter,
            peak_S, mass_S, in_place=in_place,
        )  # fmt: skip
    inverse_C1 = inverse_C.unsqueeze(1)
    cosine_RS, nearest_RS = _class_cosines(product_CS * inverse_C1, rule.centres)
    bend_RS = None
    if rule.inter_class_filter is not None:
        cosine_RS.masked_fill_(cosine_RS > rule.inter_class_filter, -math.inf)
    if rule.curriculum is not None:
        cosine_RS, bend_RS = _harden(cosine_RS, rule.curriculum)
    put_own(cosine_RS, position_S, cosine_RS.new_full((), -math.inf))
    power_RS, factor, shrink_S = take_in(
        cosine_RS.mul_(rule.log2_scale), rule.log2_bound, peak_S, mass_S
    )
    if bend_RS is not None:
        power_RS.mul_(bend_RS)
    share_CS = _spread(power_RS, nearest_RS, rule.centres).mul_(inverse_C1 * factor)
    return share_CS.to(product_CS.dtype), shrink_S


def slope_block(
    ops: BlockOps,
    product_CS: torch.Tensor,
    inverse_C: torch.Tensor,
    position_S: torch.Tensor,
    rule: Rule,
    weights: Weights,
    absent_RB: torch.Tensor | None,
    *,
    in_place: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the derivative of the loss by a block's products, and each centre's radial part.

    `(slope_CS, radial_C)`, the former in the products' dtype: with them the centres' gradient is
    `slope_CS @ unit_Sd − radial_C[:, None] * weight_Cd`.

    Args:
        ops: the operations for this device.
        product_CS: centres times normalised embeddings.
        inverse_C: float32, inverse norms of the centres.
        position_S: int64, each sample's own class in the block, outside [0, R) if it is not there.
        rule: scale, filter, curriculum, centres a class.
        weights: each sample's part.
        absent_RB: bool, classes that take no part in a micro-batch; None if all do.
        in_place: whether the products may be overwritten.
    """
    if rule.is_plain:
        return ops.slope_block(
            product_CS, inverse_C, position_S, rule.log2_scale, rule.inter_class_filter,
            weights.log2_total, weights.negative, weights.positive,
            absent_RK=absent_RB, part_N=weights.part, in_place=in_place,
        )  # fmt: skip
    inverse_C1 = inverse_C.unsqueeze(1)
    cosine_CS = product_CS * inverse_C1
    cosine_RS, nearest_RS = _class_cosines(cosine_CS, rule.centres)
    logit_RS, bend_RS = cosine_RS, None
    if rule.curriculum is not None:
        logit_RS, bend_RS = _harden(cosine_RS.clone(), rule.curriculum)
    slope_RS = torch.mul(logit_RS, rule.log2_scale).sub_(weights.log2_total).exp2_()
    slope_RS.mul_(weights.negative)
    if bend_RS is not None:
        slope_RS.mul_(bend_RS)
    if rule.inter_class_filter is not None:
        slope_RS.masked_fill_(cosine_RS > rule.inter_class_filter, 0.0)
    if absent_RB is not None:
        slope_RS.masked_fill_(absent_RB[:, weights.part], 0.0)
    # The own class is no negative, and its slope is all its sample's own centre's.
    put_own(slope_RS, position_S, slope_RS.new_zeros(()))
    slope_CS = _spread(slope_RS, nearest_RS, rule.centres)
    inside_S = (position_S >= 0) & (position_S < slope_RS.shape[0])
    centre_S = torch.where(inside_S, position_S * rule.centres + weights.place, -1)
    put_own(slope_CS, centre_S, weights.positive)
    radial_C = cosine_CS.mul_(slope_CS).sum(1).mul_(inverse_C).mul_(inverse_C)
    return slope_CS.mul_(inverse_C1).to(product_CS.dtype), radial_C


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
