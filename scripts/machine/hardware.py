"""Versions, hardware, and the rates that all speed depends on."""

import importlib.util
import shutil
import subprocess
from contextlib import suppress

import torch

from data.loading.tuning import usable_cores
from scripts.benchmarks.common.machine import describe
from scripts.benchmarks.common.memory import available_bytes
from scripts.benchmarks.head.rates import copy_seconds, measure_rates
from scripts.machine.step import GOOD, SLOW, Context, Verdict

GIB = 1 << 30

# What NVIDIA states: bytes per second of memory, and dense bf16 operations per second.
PUBLISHED = {
    "H200": (4.8e12, 989e12),
    "H100 80GB HBM3": (3.35e12, 989e12),
    "H100 PCIe": (2.0e12, 756e12),
    "A100-SXM4-80GB": (2.039e12, 312e12),
    "A100-SXM4-40GB": (1.555e12, 312e12),
}
LEAST_COPY, LEAST_PRODUCTS = 0.75, 0.6  # of the published rates, on a GPU that is idle and cool

OPTIONAL = {  # modules that some part can do without, and what that part is
    "triton": "the head's kernels",
    "faiss": "sampling hash_forest",
    "nvidia.dali": "decoding by DALI",
    "pytest": "the tests",
    "xdist": "the tests",
    "onnxruntime": "verification of ONNX files",
}


def run(context: Context) -> Verdict:
    """Report what is there; slow where a GPU is busy, or far below the rates that NVIDIA states."""
    machine = describe(torch.get_num_threads(), device=context.device.type)
    context.send("machine", machine)
    for name, version in machine["versions"].items():
        context.record(what=name, found=version)
    problems = [*_host(context), *(_gpu(context) if context.cuda else []), *_rates(context)]
    if problems:
        return Verdict(SLOW, "; ".join(problems))
    return Verdict(GOOD, f"{machine['device']}, {usable_cores()} cores, all that training needs")


def _host(context: Context) -> list[str]:
    memory = available_bytes(torch.device("cpu"))
    found = {
        "processor cores that can be used": usable_cores(),
        "memory free, GiB": 0.0 if memory is None else memory / GIB,
        "disk of the output free, GiB": shutil.disk_usage(context.folder).free / GIB,
    }
    with suppress(OSError):
        found["/dev/shm free, GiB"] = shutil.disk_usage("/dev/shm").free / GIB
    for what, value in found.items():
        context.record(what=what, found=value)
    missing = [f"{name} ({use})" for name, use in OPTIONAL.items() if not _is_there(name)]
    context.record(what="not installed", found=", ".join(missing) or "nothing that a part needs")
    compiler = next(filter(shutil.which, ("cc", "gcc", "clang")), None)
    context.record(what="C compiler, for Triton", found=compiler or "none")
    if context.cuda and compiler is None:
        return ["no C compiler, without which Triton starts no kernel: install gcc"]
    return []


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of its parent
        return False


def _gpu(context: Context) -> list[str]:
    properties = torch.cuda.get_device_properties(context.device)
    free, total = torch.cuda.mem_get_info(context.device)
    capability = f"{properties.major}.{properties.minor}"
    found = {
        "GPUs": torch.cuda.device_count(),
        "compute capability": capability,
        "multiprocessors": properties.multi_processor_count,
        "GPU memory, GiB": total / GIB,
        "of it free, GiB": free / GIB,
        "cuDNN": str(torch.backends.cudnn.version()),  # type: ignore[no-untyped-call]
        "NCCL": ".".join(map(str, torch.cuda.nccl.version())),  # type: ignore[no-untyped-call]
    }
    for what, value in found.items():
        context.record(what=what, found=value)
    with suppress(OSError, subprocess.SubprocessError):
        subprocess.run(["nvidia-smi"], timeout=5, check=False)  # to the log
    problems = []
    if free < 0.9 * total:
        problems.append(f"other programs hold {(total - free) / GIB:.1f} GiB of the GPU's memory")
    if properties.major < 8:
        problems.append(f"compute capability {capability} has no bf16: expected 8.0 or more")
    return problems


def _rates(context: Context) -> list[str]:
    rates = measure_rates(
        ("fp32", "bf16") if not context.tiny else ("fp32",),
        context.device,
        usable_cores(),
        small=context.tiny,
    )
    for dtype, rate in rates.flops.items():
        context.record(what=f"square products in {dtype}, TFLOP/s", found=rate / 1e12)
    context.record(what="copying memory, GB/s", found=rates.copy / 1e9)
    if not context.cuda:
        return []
    size = GIB
    host, device = torch.empty(size, dtype=torch.uint8).pin_memory(), context.device
    on_device = torch.empty(size, dtype=torch.uint8, device=device)
    for what, source, target in (("to", host, on_device), ("from", on_device, host)):
        seconds = copy_seconds(source, target, device)
        context.record(what=f"copying {what} the GPU, GB/s", found=size / seconds / 1e9)
    name = torch.cuda.get_device_name(device)
    known = next((rates for part, rates in PUBLISHED.items() if part in name), None)
    if known is None:
        return []
    pairs = (
        ("copies", rates.copy, known[0], LEAST_COPY),
        ("bf16 products", rates.flops["bf16"], known[1], LEAST_PRODUCTS),
    )
    return [
        f"{what} reach {found / stated:.0%} of what NVIDIA states, expected {least:.0%}: is the "
        "GPU shared, hot, or limited in power?"
        for what, found, stated, least in pairs
        if found < least * stated
    ]
