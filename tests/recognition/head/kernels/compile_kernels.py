"""Compiles the head's kernels for a Hopper GPU, which needs no GPU. Run as a program.

The block operations are called with tensors on the CPU; each launch compiles its kernel to
machine code without running it. Prints the kernels' names, one per line.
"""

from typing import Any

import torch
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime import JITFunction, driver

from recognition.head.kernels.block import Block, LogitTransform
from recognition.head.kernels.cuda import TritonOps
from recognition.head.kernels.workspace import Workspace
from recognition.head.optim.rounding import RowNoise
from recognition.head.optim.row_optimizers import RowSGD
from recognition.head.rows import RowSet

compiled: dict[str, Any] = {}
launch = JITFunction.run


class Hopper:
    """Replaces the driver that tells Triton which GPU to compile for."""

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


def call_all(dtype: torch.dtype, limit: float | None, index: Tensor | None) -> None:
    """Call every operation once, at realistic sizes."""
    rows, samples, size = 256, 128, 512
    ops, weight = TritonOps(), torch.zeros(1000, size)
    tensors = {"weight": weight, "momentum": weight.to(dtype)}
    if index is None:
        tensors = {name: tensor[:rows] for name, tensor in tensors.items()}
    block = Block(RowSet(1000), 0, rows, tensors, index, Workspace())
    factor, inverse = ops.read_rows(block, dtype)
    target = torch.zeros(samples, dtype=torch.int64)
    product = torch.zeros(rows, samples, dtype=dtype)
    for log2_scale in (90.0, 900.0):
        transform = LogitTransform(log2_scale, limit)
        ops.softmax_block(product, inverse, target, transform, *torch.zeros(2, samples))
    ops.add_targets(block, factor, target, torch.zeros(samples, size))
    sgd = RowSGD(nesterov=index is not None, momentum_dtype=dtype)
    noise = RowNoise(1, 2, target[:1].expand(rows).contiguous())
    ops.update_rows_sgd(block, factor, sgd, 0.1, noise)


if __name__ == "__main__":
    driver.set_active(Hopper())
    JITFunction.run = compile_only
    call_all(torch.bfloat16, None, None)
    call_all(torch.float32, 0.5, torch.arange(256))
    for name, kernel in compiled.items():
        assert kernel.asm["cubin"], name
        print(name)
