"""The block operations on a CPU, in the loops of `cpu_loops`. Needs Numba.

Shapes: R rows of a block, N samples, d embedding size.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recognition.head.kernels import cpu_loops as loops
from recognition.head.kernels.block import Block, LogitTransform
from recognition.head.kernels.reference import BlockOps
from recognition.head.optim.rounding import RowNoise
from recognition.head.optim.row_optimizers import RowSGD

_NONE = np.empty(0, np.int64)
_NO_FACTORS = np.empty((0, 4), np.float32)
_MOMENTA = (torch.float32, torch.bfloat16)  # what the loops read and write


class CompiledOps(BlockOps):
    """The block operations in compiled loops; torch's where a running maximum must be found."""

    def read_rows(self, block: Block, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """See `BlockOps.read_rows`."""
        if not _has_loops(block):
            return super().read_rows(block, dtype)
        weight = factor_Rd = block.tensors["weight"]
        copy = block.index is not None or dtype != weight.dtype or block.missed is not None
        if copy:
            factor_Rd = self.space.like("factor", weight[: len(block)], dtype)
        inverse_R = weight.new_empty(len(block))
        loops.read_rows(
            weight.numpy(), weight.view(torch.int32).numpy(), _index(block), inverse_R.numpy(),
            _array(factor_Rd), dtype == torch.bfloat16, copy, *_momentum(block), _factors(block),
        )  # fmt: skip
        return factor_Rd, inverse_R

    def softmax_block(
        self, product_CN: Tensor, inverse_C: Tensor, target_N: Tensor, first: int,
        transform: LogitTransform, running_max_N: Tensor, sum_exp_N: Tensor | None,
    ) -> Tensor | None:  # fmt: skip
        """See `BlockOps.softmax_block`."""
        if not (transform.is_plain and transform.max_is_fixed):
            statistics = running_max_N, sum_exp_N
            return super().softmax_block(
                product_CN, inverse_C, target_N, first, transform, *statistics
            )
        if sum_exp_N is None:
            sum_exp_N = self.space.like("unread sums", running_max_N, torch.float32).zero_()
        scale = transform.log2_scale
        loops.softmax_block(
            _array(product_CN), inverse_C.numpy(), target_N.numpy(), first, np.float32(scale),
            np.float32(transform.limit * scale), sum_exp_N.numpy(),
            product_CN.dtype == torch.bfloat16,
        )  # fmt: skip
        return None

    def largest_exps(
        self, exp_CN: Tensor, inverse_C: Tensor, centres: int, weight_N: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See `BlockOps.largest_exps`."""
        if centres > 1:
            return super().largest_exps(exp_CN, inverse_C, centres, weight_N)
        logit_R = torch.empty_like(inverse_C)
        sample_R = torch.empty(len(exp_CN), dtype=torch.int64)
        loops.largest_exps(
            _array(exp_CN), inverse_C.numpy(), weight_N.numpy(), exp_CN.dtype == torch.bfloat16,
            logit_R.numpy(), sample_R.numpy(),
        )  # fmt: skip
        return logit_R, sample_R

    def add_targets(
        self, block: Block, grad_unit_Rd: Tensor, target_N: Tensor, grad_Nd: Tensor
    ) -> None:
        """See `BlockOps.add_targets`."""
        if not _has_loops(block):
            super().add_targets(block, grad_unit_Rd, target_N, grad_Nd)
            return
        loops.add_targets(
            block.tensors["weight"].numpy(), _index(block), _array(grad_unit_Rd),
            target_N.numpy(), block.start, grad_Nd.numpy(), grad_unit_Rd.dtype == torch.bfloat16,
            *_momentum(block), _factors(block),
        )  # fmt: skip

    def update_rows_sgd(
        self, block: Block, grad_unit_Rd: Tensor, sgd: RowSGD, lr: float, noise: RowNoise | None,
        skip: Tensor | None = None,
    ) -> None:  # fmt: skip
        """See `BlockOps.update_rows_sgd`."""
        weight, momentum = block.tensors["weight"], block.tensors["momentum"]
        if not _has_loops(block):
            super().update_rows_sgd(block, grad_unit_Rd, sgd, lr, noise, skip)
            return
        assert noise is not None or not sgd.rounds, "rounding needs noise"
        assert skip is None, "only a kernel decides without the host"
        loops.update_rows_sgd(
            weight.numpy(), _array(momentum), _index(block),
            _array(grad_unit_Rd), np.float32(lr), np.float32(sgd.momentum),
            np.float32(sgd.weight_decay), sgd.nesterov, grad_unit_Rd.dtype == torch.bfloat16,
            momentum.dtype == torch.bfloat16,
            _factors(block), _NONE if noise is None else noise.class_id(momentum.device).numpy(),
            *map(np.uint32, (0, 0) if noise is None else noise.word_keys()),
        )  # fmt: skip


def _array(tensor: Tensor) -> Any:
    """Return a tensor's memory: float32, or bfloat16 as int16, which NumPy has no type for."""
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _has_loops(block: Block) -> bool:
    """Return whether the loops read and write what the block holds."""
    momentum = block.tensors.get("momentum")
    kept = torch.float32 if momentum is None else momentum.dtype
    return block.tensors["weight"].dtype == torch.float32 and kept in _MOMENTA


def _momentum(block: Block) -> tuple[Any, bool]:
    """Return the momentum, or another tensor where it is not needed, and whether it is bfloat16."""
    tensor = block.tensors["weight" if block.missed is None else "momentum"]
    return _array(tensor), tensor.dtype == torch.bfloat16


def _factors(block: Block) -> npt.NDArray[np.float32]:
    """Return what missed steps do to each row, float32 [R, 4]; [0, 4] where none was missed."""
    return _NO_FACTORS if block.missed is None else block.missed.factors.float().numpy()


def _index(block: Block) -> npt.NDArray[np.int64]:
    return _NONE if block.index is None else block.index.numpy()
