"""The backbones by name."""

from collections.abc import Callable
from functools import partial

from torch import nn

from backbones.iresnet import IResNet
from backbones.mobilefacenet import MobileFaceNet
from backbones.tiny import TinyResNet

BACKBONES: dict[str, Callable[..., nn.Module]] = {
    "r18": partial(IResNet, (2, 2, 2, 2)),
    "r34": partial(IResNet, (3, 4, 6, 3)),
    "r50": partial(IResNet, (3, 4, 14, 3)),
    "r100": partial(IResNet, (3, 13, 30, 3)),
    "r200": partial(IResNet, (6, 26, 60, 6)),
    "mbf": MobileFaceNet,
    "rtiny": TinyResNet,
}


def build_backbone(
    name: str,
    *,
    embedding_size: int = 512,
    dropout: float = 0.0,  # probability of zeroing an element of the last feature map in training
    image_size: int = 112,  # side in pixels, 16 or more
    activation_checkpointing: bool = False,  # compute activations twice, to keep fewer
) -> nn.Module:
    """Return the network called `name`, with initial weights from torch's global generator.

    The network maps images `[n, 3, image_size, image_size]`, RGB in [-1, 1], to embeddings
    `float32 [n, embedding_size]` that are not normalised.

    Raises `ValueError` for an unknown name, and for a size or a dropout out of range.
    """
    if name not in BACKBONES:
        raise ValueError(f"unknown backbone {name!r}: expected one of {', '.join(BACKBONES)}")
    if embedding_size < 1:
        raise ValueError(f"embedding_size is {embedding_size}: expected 1 or more")
    if image_size < 16:
        raise ValueError(
            f"image_size is {image_size}: expected 16 or more, as the networks halve it 4 times"
        )
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"dropout is {dropout}: expected 0 <= dropout < 1")
    return BACKBONES[name](
        embedding_size=embedding_size,
        dropout=dropout,
        image_size=image_size,
        activation_checkpointing=activation_checkpointing,
    )
