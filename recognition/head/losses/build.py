"""The losses by name, as a config writes them."""

from collections.abc import Callable

from recognition.head.choices import build
from recognition.head.losses import margins
from recognition.head.losses.base import Loss
from recognition.head.losses.dissected import d_softmax

LOSSES: dict[str, Callable[..., Loss]] = {
    "softmax": margins.softmax,
    "cosface": margins.cosface,
    "arcface": margins.arcface,
    "combined": margins.combined,
    "subcenter_arcface": margins.subcenter_arcface,
    "adaface": margins.adaface,
    "magface": margins.magface,
    "curricularface": margins.curricularface,
    "d_softmax": d_softmax,
}


def build_loss(name: str, **options: float | bool) -> Loss:
    """Return the loss `name` of `LOSSES` with its `options`; see `choices.build`."""
    return build(LOSSES, name, "loss", options)
