"""The forms in which a table keeps the numbers of its rows: in four, two or one byte each.

Arithmetic is float32 in any case. A row that is kept in less is widened when it is read and rounded
stochastically when it is written (`rounding`); there is no float32 copy of the table. In int8 each
row has one float32 scale, its largest magnitude over 127, which is a tensor of its own.

Shapes: R rows, D columns.
"""

import torch
from torch import Tensor

from recognition.head.optim.rounding import RowNoise, round_stochastically, round_to_int8

# By name, as a config writes them.
STORAGE = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}
ROUNDED = (torch.bfloat16, torch.int8)  # what is less than float32


def scale_name(name: str) -> str:
    """Return the name of the rows' scales, float32 [L, 1], of a tensor that is kept in int8."""
    return f"{name}_scale"


def stored_names(name: str, dtype: torch.dtype) -> tuple[str, ...]:
    """Return the names of the tensors in which a tensor of float32 rows is kept."""
    return (name, scale_name(name)) if dtype == torch.int8 else (name,)


def zero_rows(
    name: str, rows: int, width: int, dtype: torch.dtype, device: torch.device | str
) -> dict[str, Tensor]:
    """Return the tensors of `stored_names`, with rows of zeros."""
    stored = {name: torch.zeros(rows, width, dtype=dtype, device=device)}
    if dtype == torch.int8:
        stored[scale_name(name)] = torch.zeros(rows, 1, device=device)
    return stored


def decode(stored_RD: Tensor, scale_R1: Tensor | None = None, out: Tensor | None = None) -> Tensor:
    """Return rows in float32, in `out` if it is given; rows that are not rounded as they are.

    Of an int8 row whose scale is not finite all numbers are NaN.
    """
    if stored_RD.dtype not in ROUNDED:
        return stored_RD
    wide_RD = torch.empty_like(stored_RD, dtype=torch.float32) if out is None else out
    wide_RD.copy_(stored_RD)
    return wide_RD if scale_R1 is None else wide_RD.mul_(scale_R1)


def encode(
    value_RD: Tensor, noise: RowNoise, out: Tensor, scale_R1: Tensor | None, scratch: Tensor
) -> None:
    """Round float32 `value_RD` into `out`, and its rows' scales into `scale_R1` where it has them.

    All tensors are contiguous; `value_RD` and `scratch`, float32, are overwritten.
    """
    if scale_R1 is None:
        round_stochastically(value_RD, noise, out, scratch)
    else:
        round_to_int8(value_RD, noise, out, scale_R1, scratch)
