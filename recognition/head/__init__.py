"""The classification head: class centres, sampling, losses, exact online softmax.

Three independent choices make every method (see `docs/methods.md`), each a folder:

* `placement`: where the centres live, `PLACEMENTS`;
* `sampling`: which take part in a step, `SAMPLINGS`;
* `losses`: what is computed over them, `LOSSES`.

`online_softmax` computes it, with the `kernels`; `optim` updates the centres.
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
from recognition.head.memory import state_of, workspace_bytes
from recognition.head.optim.row_optimizers import (
    ROW_OPTIMIZERS,
    RowAdamW,
    RowOptimizer,
    RowSGD,
    build_row_optimizer,
)
from recognition.head.output import HeadOutput
from recognition.head.partial_fc import PartialFC
from recognition.head.placement.build import PLACEMENTS
from recognition.head.sampling.build import SAMPLINGS
from recognition.head.separate_heads import SeparateHeads, heads_by_name

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
    "SeparateHeads",
    "adaface",
    "arcface",
    "build_loss",
    "build_row_optimizer",
    "combined",
    "cosface",
    "curricularface",
    "d_softmax",
    "heads_by_name",
    "magface",
    "softmax",
    "state_of",
    "subcenter_arcface",
    "workspace_bytes",
]
