"""Class centres whose weight is kept as two halves of 16 bits, for products in bfloat16.

Shapes: L classes of this rank, N samples, D numbers per class.
"""

import torch
from torch import Tensor

from recognition.head.kernels.block import join_halves, split_halves
from recognition.head.placement.table import Table


class SplitTable(Table):
    """A table in the memory of a float32 one, with every bit of it, whose upper half is bfloat16.

    Products read the upper halves as they are, half the bytes, without a conversion and its copy;
    an update joins both, computes in float32, and splits the result. See `split_halves`. Whoever
    wants the weight in float32 gets a copy: from `read_rows`, `rows_of` and `Block.read`.

    Args:
        rows: L.
        width: D.
        state: the optimizer's tensors by name, each [L, ...], on the device of the table.
        device: where the table is, and where blocks are computed.
    """

    low: Tensor

    def __init__(
        self, rows: int, width: int, state: dict[str, Tensor], device: torch.device
    ) -> None:
        super().__init__(torch.zeros(rows, width, dtype=torch.bfloat16, device=device), state)
        self.register_buffer("low", torch.zeros(rows, width, dtype=torch.int16, device=device))

    @property
    def lower_half(self) -> Tensor:
        """The lower half of the weight: int16 [L, D]."""
        return self.low

    def layout(self) -> dict[str, tuple[torch.Size, torch.dtype]]:
        """See `Table.layout`: the weight as the float32 that it is."""
        return super().layout() | {"weight": (self.weight.shape, torch.float32)}

    def read_rows(self, name: str, start: int, stop: int) -> Tensor:
        """See `Table.read_rows`: of the weight, a copy."""
        if name != "weight":
            return super().read_rows(name, start, stop)
        return join_halves(self.weight[start:stop], self.low[start:stop])

    def write_rows(self, name: str, start: int, rows: Tensor) -> None:
        """See `Table.write_rows`."""
        if name != "weight":
            super().write_rows(name, start, rows)
            return
        high_RD, low_RD = split_halves(rows.contiguous())
        self.weight[start : start + len(rows)].copy_(high_RD)
        self.low[start : start + len(rows)].copy_(low_RD)

    def rows_of(self, row_N: Tensor) -> Tensor:
        """See `Table.rows_of`."""
        return join_halves(*(half.index_select(0, row_N) for half in (self.weight, self.low)))
