"""The backbone's optimizer, with its state in place from the first step on."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adamw": torch.optim.AdamW,
}


def make_optimizer(
    name: str, backbone: nn.Module, *, fused: bool = False, **options: Any
) -> torch.optim.Optimizer:
    """Return the optimizer `name` of `OPTIMIZERS` over all trainable parameters of `backbone`.

    `fused` takes torch's form in one kernel, which reads on the device whether to skip a step. It
    rounds differently, so on a CPU the plain form stays.

    Weight decay applies to every parameter, batch-norm weights and PReLU slopes included, as in
    the published recipes.

    State starts as zeros instead of as nothing (the arithmetic is the same), so that a checkpoint
    taken at any step, the first included, names every tensor there is.
    """
    parameters = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
    optimizer = OPTIMIZERS[name](parameters, fused=fused or None, **options)
    for parameter in parameters:
        state = optimizer.state[parameter]
        if isinstance(optimizer, torch.optim.AdamW):
            # The fused form reads its count on the device, the plain one on the host.
            state["step"] = torch.zeros((), device=parameter.device if fused else None)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        elif options["momentum"] > 0:
            state["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def state_tensors(backbone: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's tensors by parameter name; loading writes into them."""
    return {
        f"optimizer.{name}.{key}": value
        for name, parameter in backbone.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def reads_skip(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether the optimizer can read on the device that a step is to be skipped."""
    return bool(getattr(optimizer, "_step_supports_amp_scaling", False))


def update_parameters(
    optimizer: torch.optim.Optimizer, lr: float, *, skip: bool | Tensor = False
) -> None:
    """Update all parameters at this learning rate; with `skip` change no parameter and no state.

    A tensor, bool scalar on the device of the parameters, is read there, without a wait of the
    host; only fused optimizers can (`reads_skip`).
    """
    for group in optimizer.param_groups:
        group["lr"] = lr
    if isinstance(skip, bool):
        if not skip:
            optimizer.step()
        return
    assert reads_skip(optimizer), "only a fused optimizer reads a flag on the device"
    # The attribute by which `torch.amp.GradScaler` tells fused optimizers of an overflow: they
    # change nothing where it is 1, step counts included.
    optimizer.found_inf = skip.float()  # type: ignore[attr-defined]
    optimizer.step()
    del optimizer.found_inf  # type: ignore[attr-defined]
