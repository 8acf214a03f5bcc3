"""The classification head: class centres, sampling, margins, exact streaming softmax.

Three independent choices make every method (docs: `docs/architecture.md`):

* placement: where the centres live. `PartialFC` cuts them over the ranks;
* sampling: which take part in a step, `SAMPLINGS`;
* loss: what is computed over them, `MARGINS` into `margin_softmax`.

`sharded_loss` and `streaming` are the method; the rest serves them.
"""

from recognition.head.margins import (
    MARGINS,
    Margin,
    arcface,
    build_margin,
    combined,
    cosface,
    softmax,
)
from recognition.head.partial_fc import HeadOutput, PartialFC
from recognition.head.row_sgd import RowSGD
from recognition.head.sampling import SAMPLINGS

__all__ = [
    "MARGINS",
    "SAMPLINGS",
    "HeadOutput",
    "Margin",
    "PartialFC",
    "RowSGD",
    "arcface",
    "build_margin",
    "combined",
    "cosface",
    "softmax",
]
