"""Updates the centres with the gradients of the backward passes, block by block.

Shapes: C centres of a block, D numbers per class, d embedding size.
"""

from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from recognition.head.kernels.block import Block
from recognition.head.kernels.reference import BlockOps, full_gradient
from recognition.head.losses.base import Loss
from recognition.head.online_softmax.backward import CentreLoss, SecondPass
from recognition.head.online_softmax.sample_figures import sample_figures
from recognition.head.online_softmax.stream import BlockStream
from recognition.head.optim.rounding import RowNoise
from recognition.head.optim.row_optimizers import RowOptimizer, RowSGD
from recognition.head.optim.storage import STORAGE
from recognition.head.placement.collectives import Collectives
from recognition.head.rows import RowSet, union


def sgd_with_kernel(optimizer: RowOptimizer, loss: Loss, collectives: Collectives) -> RowSGD | None:
    """Return the optimizer if one operation updates a block's rows, without their gradient."""
    if not isinstance(optimizer, RowSGD) or optimizer.momentum == 0.0:
        return None
    return None if loss.centres_per_class > 1 or collectives.sums_blocks else optimizer


def has_kernels(device: torch.device, storage: str, optimizer: RowOptimizer) -> bool:
    """Return whether the device's block operations read and update rows in this storage."""
    int8 = torch.int8 in (STORAGE[storage], getattr(optimizer, "momentum_dtype", None))
    return device.type != "cuda" or not (int8 or STORAGE[storage] == torch.bfloat16)


@dataclass(frozen=True)
class CentreUpdate:
    """The gradients that the centres have not been updated with yet, and that update."""

    stream: BlockStream
    optimizer: RowOptimizer
    sgd: RowSGD | None  # the same if it is one of `sgd_with_kernel`
    collectives: Collectives
    first_class: int  # class id of row 0
    seed: int  # of stochastic rounding
    losses: list[CentreLoss] = field(default_factory=list)  # one per backward pass

    def apply(
        self, lr: float, grad_scale: float | Tensor, step: int, *, skip: bool | Tensor = False,
        no_samples: bool = False,
    ) -> RowSet | None:  # fmt: skip
        """Update the rows that have a gradient, at learning rate `lr`, in step number `step`.

        Gradients are divided by `grad_scale`. `skip` changes nothing; where it is a tensor on a
        GPU, kernels read it, and the host waits for it only where there is no kernel. Returns the
        rows; None where the host knows that the step is skipped. Raises `ValueError` when there is
        no gradient and not `no_samples`, or both.
        """
        sgd = self.sgd
        flag = skip if isinstance(skip, Tensor) else None
        if flag is None or sgd is None or not self.stream.threads.ops.reads_skip:
            flag = None
            if skip:
                return None

        def update(ops: BlockOps, block: Block, grad_unit_Cd: Tensor) -> None:
            gradient_RD = self.collectives.sum_block(full_gradient(block, grad_unit_Cd))
            self._update(block, gradient_RD, lr, step)

        rows = self._rows(no_samples=no_samples)
        if no_samples:
            return rows
        with self.stream.threads.alone():
            second_pass = self._second_pass(rows, grad_scale)
            if sgd is not None:
                second_pass.update_sgd(sgd, lr, partial(self._noise, step=step), flag)
            else:
                for _ in second_pass.gradients(update, with_state=True):
                    pass
        return rows

    def clear(self) -> None:
        """Drop all gradients, and release their memory."""
        for loss in self.losses:
            if loss.kept is not None:
                self.stream.threads.ops.space.release(loss.kept.exp)
        self.losses.clear()

    def norm(self, grad_scale: float | Tensor) -> Tensor:
        """Return the gradients' norm over all ranks: scalar. Costs a second pass, and collectives.

        Raises `ValueError` when there is no gradient.
        """

        def square_sum(ops: BlockOps, block: Block, grad_unit_Cd: Tensor) -> Tensor:
            return self.collectives.sum_block(full_gradient(block, grad_unit_Cd)).square().sum()

        total = torch.zeros((), device=self.stream.table.device)
        second_pass = self._second_pass(self._rows(), grad_scale, by_torch=True)
        for square in second_pass.gradients(square_sum):
            total += square
        return self.collectives.sum_over_classes(total).sqrt()

    def sample_figures(self) -> dict[str, Tensor]:
        """Return numbers of each sample of the passes; see there. Raises as `norm` does."""
        self._rows()
        with self.stream.threads.alone():
            return sample_figures(self.stream, self.losses, self.collectives)

    def finite(self) -> Tensor:
        """Return whether all gradients are finite: bool scalar, at next to no cost.

        A centre's gradient is a sum of unit vectors times the numbers per sample that are looked
        at here.
        """
        finite = torch.ones((), dtype=torch.bool, device=self.stream.table.device)
        for loss in self.losses:
            finite &= loss.grad_lse.isfinite().all() & loss.targets.grad.isfinite().all()
        return finite

    def _rows(self, *, no_samples: bool = False) -> RowSet:
        """Return the rows that have a gradient: some, or none where there were no samples."""
        table = self.stream.table
        if no_samples != (not self.losses):
            raise ValueError(
                f"the centres have gradients of {len(self.losses)} backward passes, and no_samples "
                f"is {no_samples}: call head(...).loss.backward() before head.step(), or state "
                "no_samples where no batch of the step had a sample"
            )
        if no_samples:
            return RowSet(0, torch.empty(0, dtype=torch.int64, device=table.device))
        return union([loss.rows for loss in self.losses], len(table.weight), table.device)

    def _second_pass(
        self, rows: RowSet, grad_scale: float | Tensor, *, by_torch: bool = False
    ) -> SecondPass:
        """Return the second pass; `by_torch` plans its blocks for torch's temporaries.

        Not where maxima are searched: those that are kept belong to the first pass's blocks.
        """
        stream = self.stream
        if by_torch and stream.settings.plain_transform.max_is_fixed:
            stream = replace(stream, lean=False)
        losses = [loss.scaled(1.0 / grad_scale) for loss in self.losses]
        return SecondPass(stream, rows, losses)

    def _update(self, block: Block, gradient_RD: Tensor, lr: float, step: int) -> None:
        self.optimizer.update(block.read("weight"), block.read_state(), gradient_RD, lr)
        block.write(self._noise(block, step))

    def _noise(self, block: Block, step: int) -> RowNoise | None:
        return block.noise(self.seed, step, self.first_class)
