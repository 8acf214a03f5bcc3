"""Compiles the head's kernels for Ampere and Hopper, which needs no GPU. Run as a program.

The block operations are called with tensors on the CPU; each launch compiles its kernel to
machine code without running it. Prints the kernels' names, one per line, each with the compute
capability, the shared memory in bytes, the bytes per thread that do not fit the registers, and
the loads of single 16-bit numbers.
"""

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from triton.backends import nvidia
from triton.backends.compiler import GPUTarget
from triton.runtime import JITFunction, driver

from recognition.head.kernels.block import Block, LogitTransform, split_halves
from recognition.head.kernels.cuda import TritonOps
from recognition.head.kernels.reference import Coefficients
from recognition.head.kernels.workspace import Workspace
from recognition.head.optim.history import Missed
from recognition.head.optim.rounding import RowNoise
from recognition.head.optim.row_optimizers import RowSGD
from recognition.head.rows import RowSet

compiled: dict[str, list[Any]] = {}
launch = JITFunction.run


class Absent:
    """Replaces the driver that tells Triton which GPU to compile for."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return self.capability  # what is compiled is kept per device

    def get_current_stream(self, device: int) -> int:
        return 0


def compile_only(self: Any, *args: Any, **options: Any) -> Any:
    options["warmup"] = True
    kernel = launch(self, *args, **options)
    compiled.setdefault(self.fn.__name__, []).append(kernel)
    return kernel


def spilled(cubin: bytes) -> int:
    """Return the bytes of local memory that each thread needs."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(Path(nvidia.__file__).parent / "bin/cuobjdump"), "-res-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True)
    return max(int(size) for size in re.findall(r"STACK:(\d+)", usage.stdout + usage.stderr))


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
        ops.softmax_block(product, inverse, target, 0, transform, *torch.zeros(2, samples))
    ops.add_targets(block, factor, target, torch.zeros(samples, size))
    sgd = RowSGD(nesterov=index is not None, momentum_dtype=dtype)
    noise = RowNoise(1, 2, target[:1].expand(rows).contiguous())
    ops.update_rows_sgd(block, factor, sgd, 0.1, noise)


def call_fused(index: Tensor | None, *, split: bool, rounded: bool) -> None:
    """Call the fused operations once, at realistic sizes."""
    rows, samples, size = 256, 1024, 512
    ops, weight, low = TritonOps(), torch.zeros(1000, size), None
    if split:
        weight, low = split_halves(weight)
    dtype = torch.bfloat16 if rounded else torch.float32
    tensors = {"weight": weight, "momentum": torch.zeros(1000, size, dtype=dtype)}
    if index is None:
        tensors = {name: tensor[:rows] for name, tensor in tensors.items()}
    block = Block(RowSet(1000), 0, rows, tensors, index, Workspace(), low)
    unit = torch.zeros(samples, size, dtype=torch.bfloat16)
    target, number = torch.zeros(samples, dtype=torch.int64), torch.zeros(samples)
    transform, sgd = LogitTransform(90.0), RowSGD(momentum_dtype=dtype)
    out, sums = torch.zeros(rows, samples, dtype=torch.bfloat16), torch.zeros(8, samples)
    ops.product_exps(block, unit, target, transform, out, sums)
    noise = RowNoise(1, 2, rows if index is None else index) if rounded else None
    given = Coefficients(target, number, number, target, torch.zeros(1000, 2, dtype=torch.bool))
    ops.product_update(block, unit, given, transform, sgd, 0.1, noise, torch.tensor(True))
    products, first = torch.zeros(9, 4, dtype=torch.float64), torch.zeros(rows, dtype=torch.int16)
    ops.coast(block, sgd, Missed(products, products[:8, 0], first, 8), noise)


if __name__ == "__main__":
    JITFunction.run = compile_only
    for capability in (80, 90):
        driver.set_active(Absent(capability))
        compiled.clear()
        call_all(torch.bfloat16, None, None)
        call_all(torch.float32, 0.5, torch.arange(256))
        for split in (False, True):
            call_fused(None, split=split, rounded=True)
            call_fused(torch.arange(256), split=split, rounded=False)
        for name, kernels in compiled.items():
            for kernel in kernels:
                lone = kernel.asm["ptx"].count("ld.global.b16")
                print(name, capability, kernel.metadata.shared, spilled(kernel.asm["cubin"]), lone)
