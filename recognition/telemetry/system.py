"""What a run takes of its machine: memory by part, and the figures of each rank."""

import resource
import sys
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from recognition.distributed import gather

SHOWN_RANKS = 16  # that have curves of their own; of more there are the least, the mean, the most


def peak_memory_bytes(device: torch.device) -> float:
    """Return the peak memory so far: allocated on the GPU, or of this process on a CPU."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * unit


def memory_by_part(
    device: torch.device,
    *,
    backbone: nn.Module,
    average: nn.Module | None,
    optimizer: torch.optim.Optimizer,
    head_state: Iterable[Tensor],
    head_workspace: int,
) -> dict[str, float]:
    """Return the GiB on a device that each part holds now, and the rest of the peak.

    `backbone` is its weights, buffers and gradients; `optimizer` what that of the backbone keeps;
    `head_state` the centres with what their optimizer keeps, where they are on this device;
    `head_workspace` the temporaries that the head uses again and again. `rest` is the peak without
    these: activations, other temporaries and, on a CPU, the interpreter, libraries and data.
    """
    gradients = (p.grad for p in backbone.parameters() if p.grad is not None)
    weights = [*backbone.parameters(), *backbone.buffers(), *gradients]
    states = [value for state in optimizer.state.values() for value in state.values()]
    parts = {
        "backbone": _size(weights, device),
        "optimizer": _size((v for v in states if isinstance(v, Tensor)), device),
        "head_state": _size(head_state, device),
        "head_workspace": head_workspace,
    }
    if average is not None:
        parts["average"] = _size([*average.parameters(), *average.buffers()], device)
    rest = max(0.0, peak_memory_bytes(device) - sum(parts.values()))
    return {name: size / 2**30 for name, size in (parts | {"rest": rest}).items()}


def _size(tensors: Iterable[Tensor], device: torch.device) -> int:
    return sum(tensor.nbytes for tensor in tensors if tensor.device.type == device.type)


def by_rank(own: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Return `{name}_by_rank` for each of this rank's figures: of all ranks. Collective."""
    values = gather(dict(own))
    return {f"{name}_by_rank": _of_ranks([each[name] for each in values]) for name in own}


def _of_ranks(values: list[float]) -> dict[str, float]:
    if len(values) <= SHOWN_RANKS:
        return {str(rank): value for rank, value in enumerate(values)}
    return {"least": min(values), "mean": sum(values) / len(values), "most": max(values)}
