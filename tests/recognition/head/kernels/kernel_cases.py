"""What the tests of the block operations share: their forms, blocks, and tolerances."""

import pytest
import torch
from torch import Tensor

from recognition.head.kernels.block import Block
from recognition.head.kernels.cpu import CompiledOps
from recognition.head.kernels.reference import BlockOps
from recognition.head.kernels.workspace import Workspace
from recognition.head.rows import RowSet
from tests.recognition.head.kernels.interpreter import mend_interpreter

pytest.importorskip("triton", reason="needs Triton, which torch brings on Linux")
from recognition.head.kernels.cuda import TritonOps as TritonOps

if not torch.cuda.is_available():
    mend_interpreter()

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")  # of Triton's kernels
OPS: list[BlockOps] = [BlockOps(), TritonOps(), CompiledOps()]
every_form = pytest.mark.parametrize("ops", OPS, ids=["torch", "triton", "compiled"])
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)

# Rounded to the nearest, a bfloat16 is off by 2^-8 of the number at most; twice that of two.
BFLOAT16 = 2.0**-7


def device_of(form: type[BlockOps]) -> torch.device:
    """Return where a form computes: compiled loops read CPU memory, kernels that of the GPU."""
    return torch.device("cpu") if issubclass(form, CompiledOps) else DEVICE


def block_of(start: int, stop: int, index: Tensor | None, **tensors: Tensor) -> Block:
    """Return positions `[start, stop)` of the rows in `index`, or of all rows, of some tables."""
    if index is None:
        rows, of_block = RowSet(stop), None
        tensors = {name: tensor[start:stop] for name, tensor in tensors.items()}
    else:
        rows, of_block = RowSet(len(index), index), index[start:stop]
    return Block(rows, start, stop, tensors, of_block, Workspace())


def tolerance(dtype: torch.dtype, log2_scale: float = 0.0) -> float:
    """Return the relative tolerance: a float32 logit is off by some 2^-24 of `log2_scale`."""
    return 4e-6 + 4.0 * log2_scale * 2.0**-24 + (BFLOAT16 if dtype == torch.bfloat16 else 0.0)


def close(found: Tensor, expected: Tensor, rtol: float, atol: float = 0.0) -> None:
    found, expected = found.cpu().double(), expected.double()
    torch.testing.assert_close(found, expected, rtol=rtol, atol=atol)
