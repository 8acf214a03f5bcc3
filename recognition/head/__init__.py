"""The classification head: class centres, sampling, losses, exact streaming softmax.

Three independent choices make every method (docs: `docs/architecture.md`):

* placement: where the centres live, `PLACEMENTS`;
* sampling: which take part in a step, `SAMPLINGS`;
* loss: what is computed over them, `LOSSES`.

`global_loss` and `streaming` are the method; the rest serves them.
"""

from recognition.head.losses.base import Loss, LossInputs, MarginSoftmax, SampleWeights
from recognition.head.losses.build import LOSSES, build_loss
from recognition.head.losses.dissected import d_softmax
from recognition.head.losses.margins import (
    adaface,
    arcface,
    combined,
    cosface,
    curricularface,
    magface,
    softmax,
    subcenter_arcface,
)
from recognition.head.optim.row_optimizers import (
    ROW_OPTIMIZERS,
    RowAdamW,
    RowOptimizer,
    RowSGD,
    build_row_optimizer,
)
from recognition.head.partial_fc import HeadOutput, PartialFC
from recognition.head.placement.build import PLACEMENTS
from recognition.head.sampling.build import SAMPLINGS

__all__ = [
    "LOSSES",
    "PLACEMENTS",
    "ROW_OPTIMIZERS",
    "SAMPLINGS",
    "HeadOutput",
    "Loss",
    "LossInputs",
    "MarginSoftmax",
    "PartialFC",
    "RowAdamW",
    "RowOptimizer",
    "RowSGD",
    "SampleWeights",
    "adaface",
    "arcface",
    "build_loss",
    "build_row_optimizer",
    "combined",
    "cosface",
    "curricularface",
    "d_softmax",
    "magface",
    "softmax",
    "subcenter_arcface",
]
