"""Freezing the first stages of a network, for fine-tuning on little data.

A backbone whose stages can be frozen has a method `stages()`: their modules by name, in the order
in which an image passes them, all that come before its embedding layers.
"""

from collections.abc import Callable

from torch import nn

from backbones.batch_norm import freeze_batch_norm


def freeze_until(backbone: nn.Module, stage: str) -> None:
    """Freeze `stage` and all stages before it, in place.

    Their weights need no gradient, and their batch norms keep their running statistics and
    normalise with them (see `freeze_batch_norm`). Images need no gradient either, so autograd keeps
    nothing of a frozen stage. Call it before an optimizer or DistributedDataParallel is made.

    Raises `ValueError` for a stage that the backbone does not have, or if it names none.
    """
    kind = type(backbone).__name__
    find_stages: Callable[[], dict[str, list[nn.Module]]] = getattr(backbone, "stages", dict)
    stages = find_stages()
    if stage not in stages:
        known = f"one of {', '.join(stages)}" if stages else "a method `stages` that names them"
        raise ValueError(
            f"backbone.freeze_until is {stage!r}, which is no stage of {kind}: expected {known}, "
            "or a number of steps"
        )
    for name, modules in stages.items():
        for module in modules:
            module.requires_grad_(False)
            freeze_batch_norm(module)
        if name == stage:
            return
