"""The block operations on a CPU, with the loops of `loops` in place of torch's passes.

Shapes: L rows of the table, A active rows, R rows of one block, N samples, d embedding size.
"""

import math

import numpy as np
import numpy.typing as npt
import torch

from recognition.head.kernels import cpu_loops as loops
from recognition.head.kernels.reference import SAFE_LOG2_SCALE, TorchOps
from recognition.head.optim.rounding import RowNoise

_NO_INDEX = np.empty(0, np.int64)


class CompiledOps(TorchOps):
    """The block operations in compiled loops. See `BlockOps` for what each does.

    Scales that need a running peak are torch's.
    """

    updates_in_place = True

    def read_rows(
        self,
        weight_Ld: torch.Tensor,
        index_A: torch.Tensor | None,
        start: int,
        stop: int,
        dtype: torch.dtype,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `BlockOps.read_rows`."""
        row_Rd = weight_Ld[start:stop] if index_A is None else weight_Ld[: stop - start]
        copy = index_A is not None or dtype != weight_Ld.dtype
        factor_Rd = self._space.like("factor", row_Rd, dtype) if copy else row_Rd
        inverse_R = weight_Ld.new_empty(stop - start)
        loops.read_rows(
            weight_Ld.numpy(), weight_Ld.view(torch.int32).numpy(), _numbers(index_A), start,
            inverse_R.numpy(), _array(factor_Rd), dtype == torch.bfloat16, copy,
        )  # fmt: skip
        return factor_Rd, inverse_R

    def softmax_block(
        self,
        product_RN: torch.Tensor,
        inverse_R: torch.Tensor,
        own_N: torch.Tensor,
        log2_scale: float,
        limit: float | None,
        peak_N: torch.Tensor,
        mass_N: torch.Tensor,
    ) -> torch.Tensor | None:
        """See `BlockOps.softmax_block`."""
        if log2_scale > SAFE_LOG2_SCALE:
            return super().softmax_block(
                product_RN, inverse_R, own_N, log2_scale, limit, peak_N, mass_N
            )
        loops.softmax_block(
            _array(product_RN), inverse_R.numpy(), own_N.numpy(), np.float32(log2_scale),
            np.float32(math.inf if limit is None else limit * log2_scale), mass_N.numpy(),
            product_RN.dtype == torch.bfloat16,
        )  # fmt: skip
        return None

    def add_own(
        self,
        gradient_Rd: torch.Tensor,
        weight_Ld: torch.Tensor,
        index_A: torch.Tensor | None,
        start: int,
        own_N: torch.Tensor,
        own_Nd: torch.Tensor,
    ) -> None:
        """See `BlockOps.add_own`."""
        loops.add_own(
            _array(gradient_Rd), weight_Ld.numpy(), _numbers(index_A), start, own_N.numpy(),
            own_Nd.numpy(), gradient_Rd.dtype == torch.bfloat16,
        )  # fmt: skip

    def update_rows_sgd(
        self,
        weight_Ld: torch.Tensor,
        momentum_Ld: torch.Tensor,
        index_A: torch.Tensor | None,
        start: int,
        stop: int,
        gradient_Rd: torch.Tensor,
        *,
        lr: float,
        momentum: float,
        weight_decay: float,
        nesterov: bool = False,
        noise: RowNoise | None = None,
    ) -> None:
        """See `BlockOps.update_rows_sgd`."""
        rounded = momentum_Ld.dtype == torch.bfloat16
        assert noise is not None or not rounded, "rounding needs noise"
        keys = (0, 0) if noise is None else noise.word_keys()
        loops.update_rows_sgd(
            weight_Ld.numpy(), _array(momentum_Ld), _numbers(index_A), start,
            _array(gradient_Rd), np.float32(lr), np.float32(momentum), np.float32(weight_decay),
            nesterov, gradient_Rd.dtype == torch.bfloat16, rounded,
            _NO_INDEX if noise is None else noise.class_id.numpy(), *map(np.uint32, keys),
        )  # fmt: skip


def _array(tensor: torch.Tensor) -> npt.NDArray[np.float32] | npt.NDArray[np.int16]:
    """Return a tensor's memory: float32, or bfloat16 as int16, which NumPy has no type for."""
    whole: npt.NDArray[np.float32] | npt.NDArray[np.int16]
    whole = (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return whole


def _numbers(index_A: torch.Tensor | None) -> npt.NDArray[np.int64]:
    return _NO_INDEX if index_A is None else index_A.numpy()
