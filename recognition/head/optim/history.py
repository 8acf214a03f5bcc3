"""The steps that rows took no part in, so that they can be made up for.

Shapes: R rows, K steps that are remembered, L rows of a table.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

# Steps after which all rows of a table make up for theirs, one pass over it: a thousandth of what
# it would cost in every step, and few enough for the number of a step to fit 16 bits.
MOST_STEPS = 1023

Matrix = tuple[float, float, float, float]  # [[a, b], [c, d]]
IDENTITY: Matrix = (1.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Missed:
    """The steps in which each of R rows had a gradient of zero."""

    # float64 [K + 1, 4], the product [[a, b], [c, d]] of what each step, and all after it, does to
    # weight and momentum
    products: Tensor
    lrs: Tensor  # float64 [K], learning rates; below 0 for a step that was skipped
    first: Tensor  # int16 [R], the first missed step of each row, an index of both
    stop: int  # one past the last missed step of all

    @property
    def factors(self) -> Tensor:
        """The product of all steps that each row missed, float64 [R, 4]."""
        return self.products.index_select(0, self.first.int())

    def apply(self, weight_RD: Tensor, momentum_RD: Tensor) -> None:
        """Multiply rows of weight and momentum by their matrices, in place."""
        a_R1, b_R1, c_R1, d_R1 = self.factors.float().T.unsqueeze(2)
        before_RD = weight_RD.clone()
        weight_RD.mul_(a_R1).addcmul_(momentum_RD, b_R1)
        momentum_RD.mul_(d_R1).addcmul_(before_RD, c_R1)

    def in_order(self) -> tuple[Tensor, Iterable[tuple[int, float]]]:
        """Return an order of the rows, int64 [R], and the steps that were made, one by one.

        Of each step, how many rows make it, the first ones in that order, and its learning rate.
        The host waits for a GPU.
        """
        first_R, order_R = self.first.long().sort(stable=True)
        made = (self.lrs[: self.stop] >= 0.0).nonzero().squeeze(1)
        rows = torch.searchsorted(first_R, made, right=True).tolist()
        return order_R, zip(rows, self.lrs[made].tolist(), strict=True)


class StepHistory:
    """What the last steps did to a row without a gradient, from each of them until now.

    Args:
        device: of the tables.
    """

    def __init__(self, device: torch.device) -> None:
        self.now = 0  # steps since `clear`
        identities = torch.tensor(IDENTITY, dtype=torch.float64).repeat(MOST_STEPS + 1, 1)
        self._identities = identities.to(device)
        self._products = self._identities.clone()
        self._lrs = torch.zeros(MOST_STEPS, dtype=torch.float64, device=device)

    @property
    def is_full(self) -> bool:
        """Whether no further step can be added."""
        return self.now == MOST_STEPS

    def clear(self) -> None:
        """Forget all steps: no row has missed any."""
        self.now = 0
        self._products.copy_(self._identities)

    def add(self, lr: float, matrix: Matrix, skip: bool | Tensor = False) -> None:
        """Add a step that maps a row's (weight, momentum) by `matrix`; none where it is skipped.

        `skip` is a bool, or a bool scalar on the device, for which nobody waits.
        """
        if skip is True:
            return
        # Numbers of the host as factors, not as tensors: a copy to a GPU would have the host wait.
        a, b, c, d = matrix
        products = self._products[: self.now + 1]
        top, bottom = products[:, :2], products[:, 2:]
        moved = torch.cat([top.mul(a).add_(bottom, alpha=b), top.mul(c).add_(bottom, alpha=d)], 1)
        if isinstance(skip, Tensor):
            torch.where(skip, products, moved, out=products)
            self._lrs[self.now].fill_(lr).masked_fill_(skip, -1.0)
        else:
            products.copy_(moved)
            self._lrs[self.now].fill_(lr)
        self.now += 1

    def missed(self, last_R: Tensor) -> Missed:
        """Return the steps since each row's last, of which `last_R`, int16 [R], is the count."""
        return Missed(self._products, self._lrs, last_R, self.now)
