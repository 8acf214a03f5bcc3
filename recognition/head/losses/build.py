"""The losses by name, as a config writes them."""

from collections.abc import Callable

from recognition.head.choices import build
from recognition.head.losses.base import Loss, d_softmax
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

LOSSES: dict[str, Callable[..., Loss]] = {
    "softmax": softmax,
    "cosface": cosface,
    "arcface": arcface,
    "combined": combined,
    "subcenter_arcface": subcenter_arcface,
    "adaface": adaface,
    "magface": magface,
    "curricularface": curricularface,
    "d_softmax": d_softmax,
}


def build_loss(name: str, **options: float | bool) -> Loss:
    """Return the loss `name` of `LOSSES` with its `options`; see `choices.build`."""
    return build(LOSSES, name, "loss", options)
