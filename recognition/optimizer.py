"""The backbone's optimizer, with its state in place from the first step on."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adamw": torch.optim.AdamW,
}


def make_optimizer(name: str, backbone: nn.Module, **options: Any) -> torch.optim.Optimizer:
    """Return the optimizer `name` of `OPTIMIZERS` over all trainable parameters of `backbone`.

    Weight decay applies to every parameter, batch-norm weights and PReLU slopes included, as in
    the published recipes.

    State starts as zeros instead of as nothing (the arithmetic is the same), so that a checkpoint
    taken at any step, the first included, names every tensor there is.
    """
    parameters = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
    optimizer = OPTIMIZERS[name](parameters, **options)
    for parameter in parameters:
        state = optimizer.state[parameter]
        if isinstance(optimizer, torch.optim.AdamW):
            state["step"] = torch.zeros(())
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


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = lr
