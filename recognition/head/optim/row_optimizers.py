"""Optimizers that update some rows of a table, in place.

No stock optimizer does. A row that takes no part in a step has a gradient of zero there: its
momentum still moves it, and its weight decays. `coast` makes up for many such steps at once, when
the row is next needed, so that no step touches the whole table. Without it a row stays as it is
until it is sampled again (arXiv 2010.05222, section 3.2).

An optimizer holds settings only. The caller keeps the state, tensors with a row per class, and
shards and saves it with the weight.

Shapes: L rows of a table, R rows of one update, D columns: embedding size times centres per class.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from recognition.head.choices import build, check, check_at_least, choose
from recognition.head.optim.history import Matrix, Missed
from recognition.head.optim.storage import STORAGE, zero_rows

State = dict[str, Tensor]  # by name, a row of each tensor per class


class RowOptimizer(Protocol):
    """What the head needs of an optimizer of its rows."""

    def state(self, rows: int, width: int, device: torch.device | str = "cpu") -> State:
        """Return the state before the first update: zeros by name, each [rows, ...].

        In the form in which it is kept: see `storage`.
        """
        ...

    def update(self, weight_RD: Tensor, state: State, gradient_RD: Tensor, lr: float) -> None:
        """Update R rows: change `weight_RD` and every tensor of `state` in place.

        The result of a row depends on that row alone, not on which others share the update.
        Tensors are contiguous, weight and gradient float32, and so is what of the state is kept
        in less. The caller rounds it afterwards.

        Args:
            weight_RD: the rows.
            state: of the same rows, under the names of `state`; each [R, ...].
            gradient_RD: may be overwritten.
            lr: learning rate, finite and at least 0.
        """
        ...

    def coasting_matrix(self, lr: float) -> Matrix | None:
        """Return what a step without a gradient does to (weight, momentum) of every row.

        A 2x2 matrix: both change by linear combinations of the two. None where it is not so.
        """
        ...

    def coast(self, weight_RD: Tensor, state: State, missed: Missed) -> None:
        """Make the steps that R rows have missed, each with a gradient of zero, in place.

        Equals `update` with a gradient of zero in each of them, but for rounding.
        """
        ...


@dataclass(frozen=True)
class RowSGD:
    """`torch.optim.SGD` with momentum and weight decay, to the last bit, on the rows of a block.

    An update with gradient g is

        g = g + weight_decay·w;  v = momentum·v + g;  w = w − lr·v

    or, with Nesterov's momentum, `w = w − lr·(g + momentum·v)`.

    With a momentum in bfloat16 or int8 the velocity takes a half or a quarter of the memory and is
    rounded stochastically (see `storage`). Arithmetic is float32 all the same, and an update uses
    its velocity before it is rounded.

    State: `momentum`, [L, D] in `momentum_dtype`; in int8 also `momentum_scale`, float32 [L, 1].

    Raises `ValueError` when a setting is out of range.
    """

    momentum: float = 0.9  # factor of the old velocity, `0 <= momentum < 1`; 0 keeps no state
    weight_decay: float = 5e-4  # L2 penalty, finite and at least 0, added to the gradient
    nesterov: bool = False  # look ahead along the new velocity; needs a momentum above 0
    # float32, bfloat16 or int8; None as `PartialFC` keeps the centres, float32 elsewhere.
    momentum_dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        _check_factor("momentum", self.momentum)
        check_at_least("weight_decay", self.weight_decay)
        if self.nesterov and self.momentum == 0.0:
            raise ValueError(
                "nesterov: true found with momentum 0, expected a momentum above 0; set one, or "
                "nesterov to false"
            )
        dtypes = (None, *STORAGE.values())
        check(
            self.momentum_dtype in dtypes, "momentum_dtype", self.momentum_dtype, f"one of {dtypes}"
        )

    @property
    def rounds(self) -> bool:
        """Whether the velocity is rounded stochastically."""
        return self.momentum > 0.0 and self.momentum_dtype == torch.bfloat16

    def state(self, rows: int, width: int, device: torch.device | str = "cpu") -> State:
        """Return zero `momentum`, [rows, width], or nothing where the momentum is 0."""
        if self.momentum == 0.0:
            return {}
        return zero_rows("momentum", rows, width, self.momentum_dtype or torch.float32, device)

    def update(self, weight_RD: Tensor, state: State, gradient_RD: Tensor, lr: float) -> None:
        """See `RowOptimizer.update`."""
        if self.weight_decay > 0.0:
            gradient_RD.add_(weight_RD, alpha=self.weight_decay)
        if self.momentum == 0.0:
            weight_RD.add_(gradient_RD, alpha=-lr)
            return
        velocity_RD = state["momentum"]
        velocity_RD.mul_(self.momentum).add_(gradient_RD)
        if self.nesterov:
            weight_RD.add_(gradient_RD.add_(velocity_RD, alpha=self.momentum), alpha=-lr)
        else:
            weight_RD.add_(velocity_RD, alpha=-lr)

    def coasting_matrix(self, lr: float) -> Matrix:
        """See `RowOptimizer.coasting_matrix`."""
        decay = lr * self.weight_decay
        if self.momentum == 0.0:
            return 1.0 - decay, 0.0, 0.0, 0.0
        ahead = self.momentum if self.nesterov else 1.0
        along = 1.0 + self.momentum if self.nesterov else 1.0
        return 1.0 - along * decay, -lr * ahead * self.momentum, self.weight_decay, self.momentum

    def coast(self, weight_RD: Tensor, state: State, missed: Missed) -> None:
        """See `RowOptimizer.coast`: in closed form, by the product of the steps' matrices."""
        if self.momentum == 0.0:
            weight_RD.mul_(missed.factors[:, :1].float())
        else:
            missed.apply(weight_RD, state["momentum"])


@dataclass(frozen=True)
class RowAdamW:
    """`torch.optim.AdamW` on the rows of a block, with a step count for each row.

    Adam with decoupled weight decay (Loshchilov & Hutter, ICLR 2019, arXiv 1711.05101). A row's
    bias correction counts the steps that the row has made: all of the run's where rows coast, as
    in `torch.optim.AdamW`, and else those in which it took part. Where rows stay as they are, the
    run's count would correct a class first sampled late for a history that its averages do not
    have, and its first step would be `(1 − betas[0]) / sqrt(1 − betas[1])` = 3.2 times too long.

    State: `exp_avg` and `exp_avg_sq`, float32 [L, D]; `steps`, int32 [L, 1].

    Raises `ValueError` when a setting is out of range.
    """

    # Factors of the old averages of the gradient and of its square, each in [0, 1).
    betas: Sequence[float] = (0.9, 0.999)
    eps: float = 1e-8  # added to the root of the second average, finite and above 0
    # Finite and at least 0. The default is what published face recognition with AdamW uses, not
    # the 0.01 of `torch.optim.AdamW`.
    weight_decay: float = 0.1

    def __post_init__(self) -> None:
        check(len(self.betas) == 2, "betas", self.betas, "two numbers in [0, 1)")
        for position, beta in enumerate(self.betas):
            _check_factor(f"betas[{position}]", beta)
        positive = math.isfinite(self.eps) and self.eps > 0.0
        check(positive, "eps", self.eps, "a finite number above 0")
        check_at_least("weight_decay", self.weight_decay)

    def state(self, rows: int, width: int, device: torch.device | str = "cpu") -> State:
        """Return zero `exp_avg` and `exp_avg_sq`, [rows, width], and `steps`, [rows, 1]."""
        return {
            "exp_avg": torch.zeros(rows, width, device=device),
            "exp_avg_sq": torch.zeros(rows, width, device=device),
            "steps": torch.zeros(rows, 1, dtype=torch.int32, device=device),
        }

    def update(self, weight_RD: Tensor, state: State, gradient_RD: Tensor, lr: float) -> None:
        """See `RowOptimizer.update`."""
        mean_RD, square_RD, steps_R1 = state["exp_avg"], state["exp_avg_sq"], state["steps"]
        first, second = self.betas
        mean_RD.lerp_(gradient_RD, 1.0 - first)
        square_RD.mul_(second).addcmul_(gradient_RD, gradient_RD, value=1.0 - second)
        # In float64: of 1 − 0.999^t at t = 1, float32 would keep four digits.
        age_R1 = steps_R1.add_(1).double()
        mean_part_R1 = 1.0 - torch.pow(first, age_R1)
        square_part_R1 = 1.0 - torch.pow(second, age_R1)
        # (mean / mean_part) / (sqrt(square / square_part) + eps), with one division per element:
        # both parts of a row go into the divisor.
        divisor_RD = torch.sqrt(square_RD, out=gradient_RD)
        divisor_RD.mul_((mean_part_R1 / square_part_R1.sqrt()).float())
        divisor_RD.add_((mean_part_R1 * self.eps).float())
        weight_RD.mul_(1.0 - lr * self.weight_decay)
        weight_RD.addcdiv_(mean_RD, divisor_RD, value=-lr)

    def coasting_matrix(self, lr: float) -> None:
        """See `RowOptimizer.coasting_matrix`: there is none, as averages are divided."""

    def coast(self, weight_RD: Tensor, state: State, missed: Missed) -> None:
        """See `RowOptimizer.coast`: step by step, as the sum over steps has no closed form."""
        tensors = [weight_RD, *state.values()]
        order_R, steps = missed.in_order()
        weight_rD, *state_r = (tensor[order_R] for tensor in tensors)
        for rows, lr in steps:
            parts = {name: part[:rows] for name, part in zip(state, state_r, strict=True)}
            self.update(weight_rD[:rows], parts, torch.zeros_like(weight_rD[:rows]), lr)
        for tensor, part in zip(tensors, (weight_rD, *state_r), strict=True):
            tensor[order_R] = part


def kept_as(storage: str, optimizer: RowOptimizer) -> RowOptimizer:
    """Return the optimizer with a momentum of no stated dtype kept as the centres are.

    Raises `ValueError` for a storage that is unknown.
    """
    dtype = choose(STORAGE, storage, "storage")
    if isinstance(optimizer, RowSGD) and optimizer.momentum_dtype is None:
        return replace(optimizer, momentum_dtype=dtype)
    return optimizer


ROW_OPTIMIZERS: dict[str, Callable[..., RowOptimizer]] = {"sgd": RowSGD, "adamw": RowAdamW}


def build_row_optimizer(name: str, **options: Any) -> RowOptimizer:
    """Return the optimizer `name` of `ROW_OPTIMIZERS` with its `options`; see `choices.build`."""
    return build(ROW_OPTIMIZERS, name, "row optimizer", options)


def _check_factor(name: str, value: float) -> None:
    check(0.0 <= value < 1.0, name, value, f"0 <= {name} < 1")
