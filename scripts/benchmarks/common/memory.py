"""Memory of a process: its largest between two moments, and what Linux says about it.

On CUDA the allocator counts it. On Linux the kernel does: `VmHWM` in `/proc/self/status` is the
largest resident set since it was last reset, which writing 5 to `/proc/self/clear_refs` does.
Elsewhere there is only the largest resident set of the whole life of the process.
"""

import ctypes
import gc
import sys
from contextlib import suppress
from pathlib import Path

import torch


class PeakMemory:
    """The largest memory of a process beyond what it had when this was made.

    Args:
        device: whose memory; for the CPU, that of the process.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        gc.collect()
        if device.type == "cuda":
            self.source = "CUDA allocator"
            torch.cuda.synchronize(device)
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
            self._before = torch.cuda.memory_allocated(device)
            return
        _release_freed_memory()
        if _reset_peak():
            self.source = "VmHWM"
            self._before = memory_field("VmRSS")
        else:
            self.source = "ru_maxrss"
            self._before = _lifetime_peak()

    def beyond(self) -> int:
        """Return the bytes at the peak so far beyond those at the start."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) - self._before
        peak = memory_field("VmHWM") if self.source == "VmHWM" else _lifetime_peak()
        return max(0, peak - self._before)


def available_bytes(device: torch.device) -> int | None:
    """Return the memory that can still be allocated; None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        return memory_field("MemAvailable", "/proc/meminfo")
    except OSError:
        return None


def memory_field(name: str, file: str = "/proc/self/status") -> int:
    """Return the bytes of a line `name: … kB`; raises `OSError` where there is none."""
    for line in Path(file).read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) << 10  # the kernel writes "kB" and means KiB
    raise OSError(f"{file} has no field {name}")


def _reset_peak() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5")
        memory_field("VmHWM")
    except OSError:
        return False
    return True


def _lifetime_peak() -> int:
    import resource  # there is none on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


def _release_freed_memory() -> None:
    """Have glibc return freed memory to the system: else it would hide what is allocated next."""
    if not sys.platform.startswith("linux"):
        return
    with suppress(OSError, AttributeError):  # another C library holds on to a few MiB at most
        ctypes.CDLL("libc.so.6").malloc_trim(0)
