"""What is done to one block's products of centres and samples, between the matrix products.

For one centre a class and unchanged cosines that is `kernels`, in torch or in Triton. Here is the
choice, and the general form in torch: K centres a class, and hard negatives that count for more.

Shapes: R classes of the block, K centres a class, C = R·K centres, S samples.
"""

import math
from dataclasses import dataclass

import torch

from recognition.head.kernels.interface import BlockOps
from recognition.head.kernels.reference import FIXED_PEAK, put_own, start_peak, take_in
from recognition.head.losses.base import Curriculum


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
    def start_peak(self) -> float:
        """Each sample's peak before the first block."""
        return start_peak(self.log2_bound)

    @property
    def peak_is_fixed(self) -> bool:
        """Whether no block moves the peaks."""
        return self.start_peak == FIXED_PEAK

    @property
    def is_plain(self) -> bool:
        """Whether a class's cosine is its one centre's, as it is."""
        return self.curriculum is None and self.centres == 1


def softmax_block(
    ops: BlockOps,
    product_CS: torch.Tensor,
    inverse_C: torch.Tensor,
    position_S: torch.Tensor,
    rule: Rule,
    peak_S: torch.Tensor,
    mass_S: torch.Tensor,
) -> torch.Tensor | None:
    """Add a block's negatives to the samples' statistics, and make its products into their shares.

    All in place; see `BlockOps.softmax_block`. A centre's share is what the centre, not
    normalised, counts for in the sum of negatives at the new peak.

    Args:
        ops: the operations for this device.
        product_CS: centres times normalised embeddings.
        inverse_C: float32, inverse norms of the centres.
        position_S: int64, each sample's own class in the block, outside [0, R) if it is not there.
        rule: scale, filter, curriculum, centres a class.
        peak_S: float32, largest logit so far, to base 2; at first `rule.start_peak`.
        mass_S: float32, sum of exponentials at the peak.

    Returns:
        What sums at the old peak must be multiplied by; None where the peak stayed.
    """
    if rule.is_plain:
        return ops.softmax_block(
            product_CS, inverse_C, position_S, rule.log2_scale, rule.inter_class_filter,
            peak_S, mass_S,
        )  # fmt: skip
    inverse_C1 = inverse_C.unsqueeze(1)
    cosine_RS, nearest_RS = _class_cosines(product_CS * inverse_C1, rule.centres)
    bend_RS = None
    if rule.inter_class_filter is not None:
        cosine_RS.masked_fill_(cosine_RS > rule.inter_class_filter, -math.inf)
    if rule.curriculum is not None:
        cosine_RS, bend_RS = _harden(cosine_RS, rule.curriculum)
    put_own(cosine_RS, position_S, cosine_RS.new_full((), -math.inf))
    power_RS = cosine_RS.mul_(rule.log2_scale)
    factor, shrink_S = take_in(power_RS, rule.log2_bound, peak_S, mass_S)
    if bend_RS is not None:
        power_RS.mul_(bend_RS)
    product_CS.copy_(_spread(power_RS, nearest_RS, rule.centres).mul_(inverse_C1 * factor))
    return shrink_S


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
