"""The class centres with their optimizer state, read and written in blocks of rows.

Shapes: L classes of this rank, N samples, D numbers per class: its K centres of d each.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from recognition.head.kernels.block import Block
from recognition.head.kernels.workspace import Workspace
from recognition.head.rows import Bounds, RowSet


class Table(nn.Module):
    """Class centres and optimizer state on the device that computes.

    Args:
        weight: float32 [L, D].
        state: the optimizer's tensors by name, each [L, ...].

    Attributes:
        parallel: whether threads may take different parts at the same time.
        stages: whether `stage` sends rows ahead of the passes that need them.
    """

    weight: Tensor
    parallel = True
    stages = False

    def __init__(self, weight: Tensor, state: dict[str, Tensor]) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.state_names = tuple(state)
        for name, tensor in state.items():
            self.register_buffer(name, tensor)

    @property
    def device(self) -> torch.device:
        """Where blocks are computed."""
        return self.weight.device

    def tensors(self) -> dict[str, Tensor]:
        """Return weight and state by name: the tensors themselves."""
        return {name: getattr(self, name) for name in ("weight", *self.state_names)}

    def rows_of(self, row_N: Tensor) -> Tensor:
        """Return the weight of single rows, int64 [N], on `device`: float32 [N, D]."""
        return self.weight.index_select(0, row_N)

    def stage(self, rows: RowSet) -> None:
        """Prepare for passes over `rows`."""

    def release(self) -> None:
        """Drop the staged rows."""

    def iter_blocks(
        self, rows: RowSet, bounds: Bounds, space: Workspace, *, with_state: bool = False
    ) -> Iterator[Block]:
        """Yield the blocks of a row set within `bounds`, copies of rows in `space`.

        Whoever changes a block calls its `write` before taking the next one.
        """
        tensors = self.tensors() if with_state else {"weight": self.weight}
        for start, stop in bounds:
            if rows.index is None:
                views = {name: tensor[start:stop] for name, tensor in tensors.items()}
                yield Block(rows, start, stop, views, None, space)
            else:
                yield Block(rows, start, stop, tensors, rows.index[start:stop], space)

    def finish(self) -> None:
        """Wait until all that was written is in the table."""
