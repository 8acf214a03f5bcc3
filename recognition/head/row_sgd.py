"""SGD on rows of a table: rows that are not handed in are not touched."""

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class RowSGD:
    """`torch.optim.SGD` with momentum and weight decay, applied to a block of rows at a time.

    No stock optimizer updates some rows of a table in place. With this one weight, momentum and
    decay of an unsampled centre stay bit-identical through a step (arXiv 2010.05222, section 3.2:
    only sampled centres are updated); its momentum waits until it is sampled again.

    Attributes:
        momentum: factor of the old velocity, `0 <= momentum < 1`.
        weight_decay: L2 penalty, finite and at least 0, added to the gradient as in
            `torch.optim.SGD`.

    Raises `ValueError` when one of them is out of range.
    """

    momentum: float = 0.9
    weight_decay: float = 5e-4

    def __post_init__(self) -> None:
        if not 0.0 <= self.momentum < 1.0:
            raise ValueError(f"momentum: {self.momentum} found, expected 0 <= momentum < 1")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0.0):
            raise ValueError(
                f"weight_decay: {self.weight_decay} found, expected a finite number of at least 0"
            )

    def update(
        self,
        weight_Rd: torch.Tensor,
        velocity_Rd: torch.Tensor,
        gradient_Rd: torch.Tensor,
        lr: float,
    ) -> None:
        """Step R rows, in place: `v = momentum·v + g + weight_decay·w; w = w − lr·v`.

        Overwrites `gradient_Rd`. All three are float32 [R, d].
        """
        gradient_Rd.add_(weight_Rd, alpha=self.weight_decay)
        velocity_Rd.mul_(self.momentum).add_(gradient_Rd)
        weight_Rd.add_(velocity_Rd, alpha=-lr)
