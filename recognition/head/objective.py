"""What is computed from each sample's negatives and its own cosine.

The streaming passes reduce all of a sample's negatives to one number, the log-sum-exp of their
logits. Whatever loss is wanted is then a function of 2·N numbers, and autograd on those gives the
two derivatives a sample from which every gradient of the step follows.

Shapes: N samples of the global batch.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from recognition.head.margins import Margin

Objective = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Takes the negatives' log-sum-exp [N] and the own cosines [N], returns each sample's loss [N]."""


def margin_softmax(
    negative_lse_N: torch.Tensor, cosine_N: torch.Tensor, *, margin: Margin, scale: float
) -> torch.Tensor:
    """Return the cross entropy of the softmax with margin: float32 [N].

    Equals `F.cross_entropy(scale * margin(normalize(x) @ normalize(w).T), y, reduction="none")`,
    the margin applied to the own class only. With z the log-sum-exp of the negatives' logits
    `scale·cos` and t the own logit, `log(e^t + e^z) − t = log(1 + e^(z − t))`: it neither
    overflows nor saturates, and a loss near zero keeps its digits. A sample without negatives
    (z = −inf) has loss 0 and no gradient.
    """
    return F.softplus(negative_lse_N - scale * margin(cosine_N))


def mean_and_derivatives(
    objective: Objective, negative_lse_N: torch.Tensor, cosine_N: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the mean loss and its derivatives by both arguments: scalar, [N], [N]."""
    negative_lse_N = negative_lse_N.detach().requires_grad_()
    cosine_N = cosine_N.detach().requires_grad_()
    with torch.enable_grad():
        loss = objective(negative_lse_N, cosine_N).mean()
        by_negatives_N, by_cosine_N = torch.autograd.grad(loss, (negative_lse_N, cosine_N))
    return loss.detach(), by_negatives_N, by_cosine_N
