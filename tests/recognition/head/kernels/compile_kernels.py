"""Compiles the head's kernels for a Hopper GPU, which needs no GPU. Run as a program.

The block operations are called with tensors on the CPU; each launch compiles its kernel to
machine code and stops short of the device. Prints the kernels' names, a line each.
"""

from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import JITFunction, driver

from recognition.head.kernels import fused
from recognition.head.optim.rounding import RowNoise

compiled: dict[str, Any] = {}
launch = JITFunction.run


class Hopper:
    """Stands where Triton asks which GPU it compiles for."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def compile_only(self: Any, *args: Any, **options: Any) -> Any:
    options["warmup"] = True
    kernel = compiled[self.fn.__name__] = launch(self, *args, **options)
    return kernel


def call_all(dtype: torch.dtype, limit: float | None, index: torch.Tensor | None) -> None:
    """Call every operation once, at sizes of use."""
    rows, samples, size = 256, 128, 512
    weight = torch.zeros(1000, size)
    factor, inverse = fused.read_rows(weight, index, 16, 16 + rows, dtype)
    own = torch.zeros(samples, dtype=torch.int64)
    product = torch.zeros(rows, samples, dtype=dtype)
    peak, mass = torch.zeros(2, samples)
    for log2_scale in (90.0, 900.0):
        fused.softmax_block(product, inverse, own, log2_scale, limit, peak, mass)
    fused.add_own(factor, weight, index, 16, own, torch.zeros(samples, size))
    fused.update_rows_sgd(
        weight,
        torch.zeros(1000, size, dtype=dtype),
        index,
        16,
        16 + rows,
        factor,
        lr=0.1,
        momentum=0.9,
        weight_decay=5e-4,
        nesterov=index is not None,
        noise=RowNoise(1, 2, own[:1].expand(rows).contiguous()),
    )


if __name__ == "__main__":
    driver.set_active(Hopper())
    JITFunction.run = compile_only
    call_all(torch.bfloat16, None, None)
    call_all(torch.float32, 0.5, torch.arange(1000))
    for name, kernel in compiled.items():
        assert kernel.asm["cubin"], name
        print(name)
