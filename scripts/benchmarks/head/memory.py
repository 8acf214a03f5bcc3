"""Peak memory of a process between two moments.

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

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemory:
    """What a process takes at its peak beyond what it had when this was made.

    Args:
        device: whose memory; the process's own for the CPU.
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
        _give_back_freed_memory()
        if _reset_peak():
            self.source = "VmHWM"
            self._before = _status("VmRSS")
        else:
            self.source = "ru_maxrss"
            self._before = _lifetime_peak()

    def beyond(self) -> int:
        """Return the bytes at the peak so far beyond those at the start."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) - self._before
        peak = _status("VmHWM") if self.source == "VmHWM" else _lifetime_peak()
        return max(0, peak - self._before)


def available_bytes(device: torch.device) -> int | None:
    """Return the memory that can still be taken; None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        return _field(Path("/proc/meminfo"), "MemAvailable")
    except OSError:
        return None


def _reset_peak() -> bool:
    try:
        _CLEAR.write_text("5")
        _status("VmHWM")
    except OSError:
        return False
    return True


def _status(field: str) -> int:
    return _field(_STATUS, field)


def _field(file: Path, field: str) -> int:
    for line in file.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) << 10  # the kernel writes "kB" and means KiB
    raise OSError(f"{file} has no field {field}")


def _lifetime_peak() -> int:
    import resource  # there is none on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


def _give_back_freed_memory() -> None:
    """Let glibc return what was freed, so that it does not hide what is taken from now on."""
    if not sys.platform.startswith("linux"):
        return
    with suppress(OSError, AttributeError):  # another C library holds on to a few MiB at most
        ctypes.CDLL("libc.so.6").malloc_trim(0)
