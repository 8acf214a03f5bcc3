"""Compiles the kernels that hash class ids for GPUs, which needs none. Run as a program.

Prints `kernel architecture`, one per line.
"""

from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import JITFunction, driver

from recognition.head.kernels import triton_hash

compiled: list[tuple[str, Any]] = []
launch = JITFunction.run


class Driver:
    """Replaces the driver that tells Triton which GPU to compile for."""

    def __init__(self, architecture: int) -> None:
        self.architecture = architecture

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.architecture, 32)

    def get_current_device(self) -> int:
        return self.architecture  # what is compiled is kept per device

    def get_current_stream(self, device: int) -> int:
        return 0


def compile_only(self: Any, *args: Any, **options: Any) -> Any:
    options["warmup"] = True
    kernel = launch(self, *args, **options)
    compiled.append((self.fn.__name__, kernel))
    return kernel


if __name__ == "__main__":
    JITFunction.run = compile_only
    for architecture in (80, 90):
        driver.set_active(Driver(architecture))
        # Of other widths and multiples, none of which may compile a kernel of its own.
        for start, size in [(0, 1), (1, 2048), (2**31 + 16, 4999)]:
            triton_hash.draw(torch.zeros(size, dtype=torch.bool), 2**32, start, seed=0, step=0)
            triton_hash.ranking(torch.zeros(size), start, seed=0, step=size)
        kernels = {id(kernel): (name, kernel) for name, kernel in compiled}
        for name, kernel in kernels.values():
            assert kernel.asm["cubin"], name
            print(name, architecture)
        compiled.clear()
