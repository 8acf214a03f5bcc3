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
_MOMENTA = (torch.float32, torch.bfloat16)  # what the loops read and write


class CompiledOps(BlockOps):
    """The block operations in compiled loops; torch's where a running maximum must be found."""

    def read_rows(self, block: Block, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """See `BlockOps.read_rows`."""
        if block.tensors["weight"].dtype != torch.float32:
            return super().read_rows(block, dtype)
        weight = factor_Rd = block.tensors["weight"]
        copy = block.index is not None or dtype != weight.dtype
        if copy:
            factor_Rd = self.space.like("factor", weight[: len(block)], dtype)
        inverse_R = weight.new_empty(len(block))
        loops.read_rows(
            weight.numpy(), weight.view(torch.int32).numpy(), _index(block), inverse_R.numpy(),
            _array(factor_Rd), dtype == torch.bfloat16, copy,
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

    def add_targets(
        self, block: Block, grad_unit_Rd: Tensor, target_N: Tensor, grad_Nd: Tensor
    ) -> None:
        """See `BlockOps.add_targets`."""
        if block.tensors["weight"].dtype != torch.float32:
            super().add_targets(block, grad_unit_Rd, target_N, grad_Nd)
            return
        loops.add_targets(
            block.tensors["weight"].numpy(), _index(block), _array(grad_unit_Rd),
            target_N.numpy(), block.start, grad_Nd.numpy(), grad_unit_Rd.dtype == torch.bfloat16,
        )  # fmt: skip

    def update_rows_sgd(
        self, block: Block, grad_unit_Rd: Tensor, sgd: RowSGD, lr: float, noise: RowNoise | None,
        skip: Tensor | None = None,
    ) -> None:  # fmt: skip
        """See `BlockOps.update_rows_sgd`."""
        weight, momentum = block.tensors["weight"], block.tensors["momentum"]
        if weight.dtype != torch.float32 or momentum.dtype not in _MOMENTA:
            super().update_rows_sgd(block, grad_unit_Rd, sgd, lr, noise, skip)
            return
        assert noise is not None or not sgd.rounds, "rounding needs noise"
        assert skip is None, "only a kernel decides without the host"
        loops.update_rows_sgd(
            weight.numpy(), _array(momentum), _index(block),
            _array(grad_unit_Rd), np.float32(lr), np.float32(sgd.momentum),
            np.float32(sgd.weight_decay), sgd.nesterov, grad_unit_Rd.dtype == torch.bfloat16,
            momentum.dtype == torch.bfloat16,
            _NONE if noise is None else noise.class_id(momentum.device).numpy(),
            *map(np.uint32, (0, 0) if noise is None else noise.word_keys()),
        )  # fmt: skip


def _array(tensor: Tensor) -> Any:
    """Return a tensor's memory: float32, or bfloat16 as int16, which NumPy has no type for."""
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _index(block: Block) -> npt.NDArray[np.int64]:
    return _NONE if block.index is None else block.index.numpy()
