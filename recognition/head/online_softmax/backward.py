"""The second pass: the gradient of the centres, block by block, each to be used at once.

The derivative of the loss by a centre w is `g − (g·w / |w|²)·w`, with

    g = Σ_negatives f·exp·unit + Σ_targets grad·unit / |w|

whose exponentials, each over |w|, are those of the first pass (`forward`), at a maximum m, and
`f = grad_lse·2^(m − log2_total)` a number per sample.

Shapes: S samples whose negatives count, N samples in all, A active classes of this rank, R classes
of a block, K centres per class, C = R·K centres of a block, d embedding size, B micro-batches.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from recognition.head.kernels.block import Block
from recognition.head.kernels.reference import BlockOps, Coefficients
from recognition.head.losses.base import Curriculum
from recognition.head.online_softmax.forward import BlockExps, KeptExps, Samples
from recognition.head.online_softmax.stream import BlockStream
from recognition.head.optim.rounding import RowNoise
from recognition.head.optim.row_optimizers import RowSGD
from recognition.head.rows import RowSet

Result = TypeVar("Result")

_ALIGNED = 64  # samples, of which the fused update takes a multiple


@dataclass(frozen=True)
class TargetGradients:
    """The samples' part in the gradients of their target centres."""

    unit: Tensor  # float32 [N, d], normalised embeddings
    row: Tensor  # int64 [N], of the target class in the table; −1 on ranks without it
    centre: Tensor  # int64 [N], which of the class's K centres
    grad: Tensor  # float32 [N], derivative of the loss by the cosine with that centre


@dataclass(frozen=True)
class CentreLoss:
    """What the centres' gradient is made from: O(N·d) numbers, whatever C is.

    `log2_total` is the sum of the exponentials of all ranks' negatives, to base 2; any finite
    number where there is none.
    """

    rows: RowSet  # the active ones
    samples: Samples
    log2_total: Tensor  # float32 [S]
    grad_lse: Tensor  # float32 [S], derivative by the negatives' log-sum-exp, times scale
    targets: TargetGradients
    kept: KeptExps | None
    gain: Tensor | None  # float32 [A], factors of the rows' exponentials; None for ones
    block_samples: int  # that blocks are planned for, the same on all ranks that sum blocks
    cosine: Tensor  # float32 [N], of each sample with its target centre, over all ranks
    norm: Tensor  # float32 [N], of the embeddings before normalisation
    sizes: Sequence[int]  # samples of every rank

    def scaled(self, factor: float | Tensor) -> "CentreLoss":
        """Return the same for the loss times `factor`."""
        targets = replace(self.targets, grad=self.targets.grad * factor)
        return replace(self, grad_lse=self.grad_lse * factor, targets=targets)


class SecondPass:
    """The second pass over some rows: several micro-batches' losses as one of all their samples.

    `rows` must hold the rows of every loss.
    """

    def __init__(self, stream: BlockStream, rows: RowSet, losses: list[CentreLoss]) -> None:
        only_one, dtype = len(losses) == 1, stream.settings.matmul_dtype
        curricula = [c for loss in losses if (c := loss.samples.curriculum) is not None]
        self._stream, self._rows, self._losses = stream, rows, losses
        self._unit_Sd = torch.cat([loss.samples.unit for loss in losses])
        self._log2_total_S = torch.cat([loss.log2_total for loss in losses])
        self._grad_lse_S = torch.cat([loss.grad_lse for loss in losses])
        self._exps = BlockExps(
            self._unit_Sd.to(dtype),
            rows.positions(torch.cat([loss.samples.target_row for loss in losses])),
            stream.transform(Curriculum.concatenate(curricula) if curricula else None),
        )
        self._kept = losses[0].kept if only_one else None
        gains = any(loss.gain is not None for loss in losses)
        self._gain_AB = _gains(losses, rows) if gains else None
        self._absent_AB = None if only_one or gains else _absent(losses, rows)
        initial_max = self._exps.transform.initial_max
        self._initial_max_S = self._unit_Sd.new_full((len(self._unit_Sd),), initial_max)

    def gradients(
        self, use: Callable[[BlockOps, Block, Tensor], Result], *, with_state: bool = False
    ) -> Iterator[Result]:
        """Call `use` for each block of the rows, and yield what it returns, in order.

        `use` gets the thread's operations, the block, and [C, d] in `matmul_dtype`, from which
        `full_gradient` makes the block's gradient: the sum over the losses of
        `autograd.grad(loss, weight)`. It may change the block and write it; it is called by
        several threads, and a gradient holds until it returns.
        """
        weighted_Sd = self._weighted(self._initial_max_S)
        targets = [loss.targets for loss in self._losses]
        target_sums = _TargetSums.of(targets, self._rows, self._stream.centres)
        of_samples = slice(0, 1) if len(self._losses) == 1 else self._batches()

        def grad_unit(ops: BlockOps, block: Block) -> Tensor:
            """Return the gradient of a block's centres, with its component along each: [C, d]."""
            exp_CS, max_S = self._block_exps(ops, block, of_samples)
            factor_Sd = weighted_Sd if max_S is None else self._weighted(max_S)
            shape, device = (len(exp_CS), factor_Sd.shape[1]), exp_CS.device
            # The memory of the rows that the exponentials were made with.
            grad_Cd = ops.space.take("factor", shape, exp_CS.dtype, device)
            torch.mm(exp_CS, factor_Sd, out=grad_Cd)
            centres = block.by_centre(shape[1])
            ops.add_targets(centres, grad_Cd, target_sums.position, target_sums.grad)
            return grad_Cd

        return self._map(lambda ops, block: use(ops, block, grad_unit(ops, block)), with_state)

    def update_sgd(
        self, sgd: RowSGD, lr: float, noise_of: Callable[[Block], RowNoise | None],
        skip: Tensor | None,
    ) -> None:  # fmt: skip
        """Update every block by its gradient; see `BlockOps.update_rows_sgd`."""
        exps = self._exps
        if self._one_product and self._stream.threads.ops.fuses(exps.transform, exps.factor.dtype):
            coefficients, factor_Sd = self._coefficients()

            def update(ops: BlockOps, block: Block) -> None:
                noise = noise_of(block)
                given = coefficients, exps.transform, sgd, lr, noise, skip
                ops.product_update(block, factor_Sd, *given)
                block.write(noise)

            updated = self._map(update, with_state=True)
        else:

            def update_by(ops: BlockOps, block: Block, grad_unit_Rd: Tensor) -> None:
                noise = noise_of(block)
                ops.update_rows_sgd(block, grad_unit_Rd, sgd, lr, noise, skip)
                block.write(noise)

            updated = self.gradients(update_by, with_state=True)
        for _ in updated:
            pass

    def _map(self, use: Callable[[BlockOps, Block], Result], with_state: bool) -> Iterator[Result]:
        def part(ops: BlockOps, blocks: Iterator[Block]) -> list[Result]:
            return [use(ops, block) for block in blocks]

        samples = sum(loss.block_samples for loss in self._losses)
        with torch.autocast(self._unit_Sd.device.type, enabled=False):
            for results in self._stream.map(part, self._rows, samples, with_state=with_state):
                yield from results

    @property
    def _one_product(self) -> bool:
        """Whether one product of all samples with coefficients gives the gradient.

        It does where the exponentials have to be made again, and the targets are those of the same
        samples.
        """
        return (
            self._kept is None
            and self._gain_AB is None
            and all(loss.samples.unit is loss.targets.unit for loss in self._losses)
        )

    def _coefficients(self) -> tuple[Coefficients, Tensor]:
        """Return the samples' coefficients and their unit embeddings, with zeros at the end.

        So many that rows of coefficients begin at addresses that a GPU loads in whole.
        """
        missing = -len(self._unit_Sd) % _ALIGNED
        own_S = torch.cat([loss.targets.grad for loss in self._losses])
        weight_S = self._sample_weights(self._initial_max_S)
        target_S = F.pad(self._exps.target_position, (0, missing), value=-1)
        numbers = weight_S, own_S, self._batches()
        weight_S, own_S, batch_S = (F.pad(each, (0, missing)) for each in numbers)
        given = Coefficients(target_S, weight_S, own_S, batch_S, self._absent_AB)
        return given, F.pad(self._exps.factor, (0, 0, 0, missing))

    def _batches(self) -> Tensor:
        """Return which micro-batch each sample is from: int64 [S]."""
        numbers = [torch.full_like(b.samples.target_row, n) for n, b in enumerate(self._losses)]
        return torch.cat(numbers)

    def _block_exps(
        self, ops: BlockOps, block: Block, of_samples: Tensor | slice
    ) -> tuple[Tensor, Tensor | None]:
        """Return a block's exponentials, and their maxima if those moved; made again if need be.

        `of_samples` selects each sample's micro-batch, or that of all.
        """
        if self._kept is not None:
            exp_CS = self._kept.of_block(block, self._stream.centres)
            return exp_CS, self._kept.running_max.get(block.start)
        absent_RS, gain_RS = (
            None if of_rows_AB is None else of_rows_AB[block.start : block.stop, of_samples]
            for of_rows_AB in (self._absent_AB, self._gain_AB)
        )
        fixed, max_S = self._exps.transform.max_is_fixed, self._initial_max_S
        if not fixed:
            max_S = max_S.clone()
        exp_CS, *_ = self._exps.make(ops, block, max_S, None, absent_RS=absent_RS, gain_RS=gain_RS)
        return exp_CS, None if fixed else max_S

    def _weighted(self, max_S: Tensor) -> Tensor:
        """Return what exponentials at a maximum are multiplied with: [S, d] in `matmul_dtype`."""
        weighted_Sd = self._unit_Sd * self._sample_weights(max_S).unsqueeze(1)
        return weighted_Sd.to(self._exps.factor.dtype)

    def _sample_weights(self, max_S: Tensor) -> Tensor:
        """Return f, the factor that exponentials at a maximum have in the gradient: [S]."""
        return self._grad_lse_S * torch.exp2(max_S - self._log2_total_S)


@dataclass(frozen=True)
class _TargetSums:
    """The targets' part in the centres' gradients, times the centre's norm, per centre."""

    position: Tensor  # int64 [N], of the centre among the row set's, each once; −1 for none
    grad: Tensor  # float32 [N, d]

    @classmethod
    def of(cls, targets: list[TargetGradients], rows: RowSet, centres: int) -> "_TargetSums":
        """Sum those of several micro-batches."""
        position_N = rows.positions(torch.cat([each.row for each in targets]))
        centre_N = torch.cat([each.centre for each in targets])
        grad_Nd = torch.cat([each.unit * each.grad.unsqueeze(1) for each in targets])
        position_N = torch.where(position_N >= 0, position_N * centres + centre_N, -1)
        position_N, order_N = position_N.sort(stable=True)
        first_N = torch.ones_like(position_N)
        first_N[1:] = position_N[1:] != position_N[:-1]
        slot_N = first_N.cumsum(0) - 1
        sum_Nd = _sum_rows(slot_N, grad_Nd[order_N])
        return cls(torch.full_like(position_N, -1).index_put_((slot_N,), position_N), sum_Nd)


def _sum_rows(slot_N: Tensor, row_Nd: Tensor) -> Tensor:
    """Return the sums of the rows with the same slot, [N, d], in an order that never varies.

    On a CPU that is index_add's, while threads of index_put add in the order in which they
    arrive; on a GPU it is the reverse.
    """
    sum_Nd = torch.zeros_like(row_Nd)
    if row_Nd.device.type == "cpu":
        return sum_Nd.index_add_(0, slot_N, row_Nd)
    return sum_Nd.index_put_((slot_N,), row_Nd, accumulate=True)


def _absent(losses: list[CentreLoss], rows: RowSet) -> Tensor | None:
    """Return which rows took no part in which micro-batch, bool [A, B]; None for a whole table."""
    if rows.index is None:
        return None
    absent_AB = torch.ones(rows.count, len(losses), dtype=torch.bool, device=rows.index.device)
    for number, loss in enumerate(losses):
        assert loss.rows.index is not None, "a whole table makes the union a whole table"
        absent_AB[:, number].index_fill_(0, torch.searchsorted(rows.index, loss.rows.index), False)
    return absent_AB


def _gains(losses: list[CentreLoss], rows: RowSet) -> Tensor:
    """Return the factors of the rows' exponentials in each micro-batch, 0 for a row without part.

    float32 [A, B].
    """
    absent_AB = _absent(losses, rows)
    gain_AB = torch.ones(rows.count, len(losses), device=losses[0].samples.unit.device)
    for number, loss in enumerate(losses):
        if absent_AB is not None:
            gain_AB[absent_AB[:, number], number] = 0.0
        if loss.gain is not None:
            position_A = slice(None) if loss.rows.index is None else rows.positions(loss.rows.index)
            gain_AB[position_A, number] = loss.gain
    return gain_AB
