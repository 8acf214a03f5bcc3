"""How much memory a run takes."""

import resource
import sys

import torch


def peak_memory_bytes(device: torch.device) -> float:
    """Return the peak memory so far: allocated on the GPU, or of this process on a CPU."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * unit
