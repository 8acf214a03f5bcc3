"""What the tests of the block operations share: both forms of them, and how close is close."""

import pytest
import torch

from recognition.head.kernels.cpu import CompiledOps
from recognition.head.kernels.interface import BlockOps
from recognition.head.kernels.reference import TorchOps

pytest.importorskip("triton", reason="needs Triton, which torch brings on Linux")
from recognition.head.kernels import fused

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
OPS: list[BlockOps] = [TorchOps(), fused, CompiledOps()]
both = pytest.mark.parametrize("ops", OPS, ids=["torch", "triton", "compiled"])
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)

# Rounded to the nearest, a bfloat16 is off by 2^-9 of its power of two at most; the interpreter
# cuts the bits off instead, which is up to 2^-8 of the power of two, 2^-7 of the number.
BFLOAT16 = 2.0**-7


def tolerance(dtype: torch.dtype, log2_scale: float = 0.0) -> float:
    """Relative: a logit in float32 is off by some 2^-24 of `log2_scale`, its power by as much."""
    return 4e-6 + 4.0 * log2_scale * 2.0**-24 + (BFLOAT16 if dtype == torch.bfloat16 else 0.0)


def close(found: torch.Tensor, expected: torch.Tensor, rtol: float, atol: float = 0.0) -> None:
    found, expected = found.cpu().double(), expected.double()
    torch.testing.assert_close(found, expected, rtol=rtol, atol=atol)
