"""The block operations on a CPU, in the loops of `cpu_rows` and `cpu_softmax`. Needs Numba.

Shapes: R rows of a block, N samples, d embedding size.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from recognition.head.kernels import cpu_rows, cpu_softmax
from recognition.head.kernels.block import Block, LogitTransform
from recognition.head.kernels.reference import BlockOps
from recognition.head.optim.rounding import RowNoise
from recognition.head.optim.row_optimizers import RowSGD
from recognition.head.optim.storage import scale_name

_NONE = np.empty(0, np.int64)
_NONE_MISSED = np.empty(0, np.int16), np.empty((0, 4), np.float64)
_NO_KEYS = np.zeros(2, np.uint32)
_NO_SCALES = torch.empty(0, 1)


class CompiledOps(BlockOps):
    """The block operations in compiled loops; torch's where a running maximum must be found."""

    def read_rows(self, block: Block, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """See `BlockOps.read_rows`."""
        weight = factor_Rd = block.tensors["weight"]
        copy = block.index is not None or dtype != weight.dtype or block.missed is not None
        if copy:
            factor_Rd = self.space.like("factor", weight[: len(block)], dtype)
        inverse_R = torch.empty(len(block))
        cpu_rows.read_rows(
            *_rows(block), inverse_R.numpy(), _array(factor_Rd), dtype == torch.bfloat16, copy
        )
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
        cpu_softmax.softmax_block(
            _array(product_CN), inverse_C.numpy(), target_N.numpy(), first, np.float32(scale),
            np.float32(transform.limit * scale), sum_exp_N.numpy(),
            product_CN.dtype == torch.bfloat16,
        )  # fmt: skip
        return None

    def score_block(
        self, product_CN: Tensor, inverse_C: Tensor, target_N: Tensor, first: int,
        transform: LogitTransform, running_max_N: Tensor, sum_exp_N: Tensor, key_2R: Tensor,
    ) -> None:  # fmt: skip
        """See `BlockOps.score_block`."""
        plain = transform.is_plain and transform.max_is_fixed
        if not plain or key_2R.dtype != torch.int32:
            given = target_N, first, transform, running_max_N, sum_exp_N, key_2R
            super().score_block(product_CN, inverse_C, *given)
            return
        scale = transform.log2_scale
        cpu_softmax.score_block(
            _array(product_CN), inverse_C.numpy(), target_N.numpy(), first, np.float32(scale),
            np.float32(transform.limit * scale), sum_exp_N.numpy(),
            product_CN.dtype == torch.bfloat16, *key_2R.numpy(),
        )  # fmt: skip

    def add_targets(
        self, block: Block, grad_unit_Rd: Tensor, target_N: Tensor, grad_Nd: Tensor
    ) -> None:
        """See `BlockOps.add_targets`."""
        cpu_rows.add_targets(
            *_rows(block), _array(grad_unit_Rd), target_N.numpy(), block.start, grad_Nd.numpy(),
            grad_unit_Rd.dtype == torch.bfloat16,
        )  # fmt: skip

    def update_rows_sgd(
        self, block: Block, grad_unit_Rd: Tensor, sgd: RowSGD, lr: float, noise: RowNoise | None,
        skip: Tensor | None = None,
    ) -> None:  # fmt: skip
        """See `BlockOps.update_rows_sgd`."""
        assert skip is None, "only a kernel decides without the host"
        cpu_rows.update_rows_sgd(
            *_rows(block, with_momentum=True), _array(grad_unit_Rd), np.float32(lr),
            np.float32(sgd.momentum), np.float32(sgd.weight_decay), sgd.nesterov,
            grad_unit_Rd.dtype == torch.bfloat16, *_noise(block, noise),
        )  # fmt: skip


def _array(tensor: Tensor) -> Any:
    """Return a tensor's memory: float32, or bfloat16 as int16, which NumPy has no type for."""
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _rows(block: Block, *, with_momentum: bool = False) -> tuple[Any, ...]:
    """Return the tables of weight and momentum, the rows in them, and their missed steps.

    The latter are the first of each row, int16 [R], and what it and all after it do, float64
    [K + 1, 4]; none where there are none. The momentum is another table where it need not be read.
    """
    missed, index_R = block.missed, block.index
    momentum = "momentum" if with_momentum or missed is not None else "weight"
    steps = _NONE_MISSED if missed is None else (missed.first.numpy(), missed.products.numpy())
    index = _NONE if index_R is None else index_R.numpy()
    return _table(block, "weight"), _table(block, momentum), index, steps


def _table(block: Block, name: str) -> tuple[Any, ...]:
    scale = block.tensors.get(scale_name(name), _NO_SCALES)
    return _array(block.tensors[name]), scale.numpy(), scale.view(torch.int32).numpy()


def _noise(block: Block, noise: RowNoise | None) -> tuple[Any, ...]:
    """Return the rows' class ids, and the keys of the noise of weight and momentum."""
    if noise is None:
        assert block.noise(0, 0, 0) is None, "rounding needs noise"
        return _NONE, _NO_KEYS, _NO_KEYS
    keys = [np.array(noise.of(name).word_keys(), np.uint32) for name in ("weight", "momentum")]
    return noise.class_id(torch.device("cpu")).numpy(), *keys
