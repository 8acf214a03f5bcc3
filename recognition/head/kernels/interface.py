"""The elementwise work of the streaming passes, behind one interface, in three forms.

The matrix products of a block are the library's; what stands between them is four operations.
`TorchOps` is each in torch, which is its definition and runs anywhere; `CompiledOps` is the same
in loops that Numba compiles for the CPU; the module `fused` in Triton kernels for CUDA. All
satisfy `BlockOps`: `block_ops` picks one, once, by device.
"""

import logging
from collections.abc import Callable
from typing import Protocol

import torch

from recognition.head.kernels.reference import TorchOps
from recognition.head.kernels.workspace import Workspace
from recognition.head.optim.rounding import RowNoise

logger = logging.getLogger(__name__)


class BlockOps(Protocol):
    """The operations on one block of rows.

    Shapes: L rows of the table, A active rows, R = stop − start rows of the block, N samples, d
    embedding size. Tables, products and gradients must be contiguous; tensors
    are float32 where nothing else is said. R and N may be 0.

    `index_A` is int64, the table rows that take part, or None for the table's rows 0, 1, …; a
    block is the positions `[start, stop)` of it. `own_N` is int64, each sample's own row counted
    from the block's start; a number outside `[0, R)` is none. `log2_scale` is the scale of logits
    to base 2, `limit` the cosine above which a negative is left out, or None. Logits are
    `log2_scale · product_RN · inverse_R`, −inf for the own row and for what is left out.
    """

    @property
    def updates_in_place(self) -> bool:
        """Whether `update_rows_sgd` steps rows where they stand, without copies of them."""

    def read_rows(
        self,
        weight_Ld: torch.Tensor,
        index_A: torch.Tensor | None,
        start: int,
        stop: int,
        dtype: torch.dtype,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the block's rows in `dtype`, [R, d], and 1 / max(norm, 1e-12) of each, [R].

        The rows may be a view of the table: read them only. Norms are float32, of the rows before
        they are rounded to `dtype`.
        """

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
        """Take a block into each sample's online softmax; its products become its shares, in place.

        With `p` the old peak and `q` the new one, the largest logit so far or a fixed number at
        which no power leaves float32's range: `peak_N` becomes `q`, `mass_N` becomes
        `mass · 2^(p − q) + Σ_R 2^(logit − q)`. Peaks start at `plain.start_peak(log2_scale)`.

        A share is `2^(logit − q) · inverse_R`, what to multiply the block's rows with for their
        pull, in the dtype of `product_RN`, float32 or bfloat16.

        Returns `2^(p − q)`, [N], what a sum of earlier blocks' pulls shrinks by; None for 1, as
        where the peak is fixed.
        """

    def add_own(
        self,
        gradient_Rd: torch.Tensor,
        weight_Ld: torch.Tensor,
        index_A: torch.Tensor | None,
        start: int,
        own_N: torch.Tensor,
        own_Nd: torch.Tensor,
    ) -> None:
        """Add `own_Nd / max(norm of the row, 1e-12)` to the gradients of the own rows, in place.

        No row may come twice in `own_N`. `gradient_Rd` is float32 or bfloat16, of the block's
        rows, from position `start` on.
        """

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
        """Step the block's rows as `RowSGD` does, in place in the two tables.

        The gradient is `plain.tangential(gradient_Rd, row)`; `gradient_Rd` may be bfloat16. So
        may `momentum_Ld`, which is then rounded stochastically with the bits of `noise`, that of
        the block's rows. No other row of the tables is touched. `index_A` must not hold a row
        twice.
        """


def block_ops(device: torch.device) -> Callable[[Workspace], BlockOps]:
    """Return what makes the operations for tensors on `device`, and log which and why.

    Triton's kernels on CUDA, compiled loops on a CPU, where what they need can be imported; torch
    everywhere else. Temporaries stand in the workspace that is given.
    """
    try:
        if device.type == "cuda":
            from recognition.head.kernels import fused

            logger.info("head: block operations in Triton kernels")
            return lambda space: fused
        if device.type == "cpu":
            from recognition.head.kernels.cpu import CompiledOps

            logger.info("head: block operations in loops compiled for this CPU")
            return CompiledOps
    except ImportError as error:
        logger.warning("head: block operations in torch, which is slower: %s", error)
        return TorchOps
    logger.info("head: block operations in torch, for there are no kernels for %s", device.type)
    return TorchOps
