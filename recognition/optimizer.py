"""The backbone's optimizer, with its state in place from the first step on."""

import torch
from torch import Tensor, nn

from recognition.config import Optimizer as OptimizerConfig


def make_optimizer(backbone: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Return SGD or AdamW over all trainable parameters of `backbone`.

    Weight decay applies to every parameter, batch-norm weights and PReLU slopes included, as in
    the published recipes.

    State starts as zeros instead of as nothing (the arithmetic is the same), so that a checkpoint
    taken at any step, the first included, names every tensor there is.
    """
    parameters = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
    if config.name == "adamw":
        adamw = torch.optim.AdamW(
            parameters, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay
        )
        for parameter in parameters:
            adamw.state[parameter] |= {
                "step": torch.zeros(()),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
        return adamw
    sgd = torch.optim.SGD(
        parameters,
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        nesterov=config.nesterov,
    )
    if config.momentum > 0:
        for parameter in parameters:
            sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return sgd


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
