"""The losses by name, as a config writes them."""

import inspect
from collections.abc import Callable

from recognition.head.choices import choose
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
    """Return the loss `name` of `LOSSES` with its `options`, all by keyword.

    Raises `ValueError` for a name or an option that does not exist (it lists those that do), and
    for an option out of range.
    """
    build = choose(LOSSES, name, "loss")
    known = list(inspect.signature(build).parameters)
    for option in options:
        if option not in known:
            raise ValueError(
                f"loss {name!r} has no option {option!r}: expected a subset of {known}"
            )
    return build(**options)
