"""Weights that other projects publish, under this project's names; a few lines for each.

Sources of the facts: AdaFace (github.com/mk-minchul/AdaFace: `net.py`, `inference.py`) and CVLface
(github.com/mk-minchul/CVLface: `models/iresnet`). Their "IR" networks are those of
`backbones.iresnet`, except that the first block has a shortcut without weights, and that the last
batch norm has no scale and no shift.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor

from backbones.iresnet import IResNet

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Family:
    """What one project's files have in common, and how they become this project's."""

    name: str
    prefix: str  # of the network's names; others, as those of a head, are left out
    first: str  # the name of the first layer after it
    channels: Literal["rgb", "bgr"]  # that the network expects
    convert: Callable[[Weights], dict[str, Tensor]]  # names without the prefix

    def has(self, weights: Weights) -> bool:
        """Return whether weights are of this family."""
        return self.prefix + self.first in weights

    def published(self, weights: Weights) -> dict[str, Tensor]:
        """Return weights under this project's names, for RGB. Raises `ValueError`."""
        size = len(self.prefix)
        own = {
            name[size:]: tensor for name, tensor in weights.items() if name.startswith(self.prefix)
        }
        if self.channels == "bgr":
            own[self.first] = own[self.first].flip(1)
        return self.convert(own)


_EPS: Final = 1e-5  # of every batch norm
_BN: Final = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_LAYERS: Final = {
    "input_layer.0": "conv1", "input_layer.1": "bn1", "input_layer.2": "prelu",
    "output_layer.0": "bn2", "output_layer.3": "fc", "output_layer.4": "features",
}  # fmt: skip
_IN_BLOCK: Final = {
    "res_layer.0": "bn1", "res_layer.1": "conv1", "res_layer.2": "bn2", "res_layer.3": "prelu",
    "res_layer.4": "conv2", "res_layer.5": "bn3",
    "shortcut_layer.0": "downsample.0", "shortcut_layer.1": "downsample.1",
}  # fmt: skip
_NAME: Final = re.compile(r"(?:body\.(\d+)\.)?(\w+\.\d+)\.(\w+)")


def _ir(weights: Weights) -> dict[str, Tensor]:
    """Return the weights of an IR network, in the names of `IResNet`.

    The shortcut that only takes every second pixel becomes a convolution by one and a batch norm
    that changes nothing. In training that norm follows the batches, as every other does.
    """
    places = _places(weights)
    found: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        match = _NAME.fullmatch(name)
        layers = _IN_BLOCK if match and match[1] else _LAYERS
        if match is None or match[2] not in layers:
            raise ValueError(f"{name} is no layer of an IR network without squeeze-and-excitation")
        place = f"{places[int(match[1])]}." if match[1] else ""
        found[f"{place}{layers[match[2]]}.{match[3]}"] = tensor
    width = IResNet.WIDTHS[0]
    if "layer1.0.downsample.0.weight" not in found:
        found["layer1.0.downsample.0.weight"] = torch.eye(width)[:, :, None, None].contiguous()
        values = (torch.ones(width), torch.zeros(width), torch.zeros(width))
        norm = (*values, torch.full((width,), 1 - _EPS), torch.tensor(0))
        names = [f"layer1.0.downsample.1.{part}" for part in _BN]
        found.update(zip(names, norm, strict=True))
    size = len(found["fc.bias"])
    found.setdefault("features.weight", torch.ones(size))
    found.setdefault("features.bias", torch.zeros(size))
    return found


def _places(weights: Weights) -> dict[int, str]:
    """Return where each block of `body` belongs: its stage is known by its width."""
    places: dict[int, str] = {}
    counts = dict.fromkeys(IResNet.WIDTHS, 0)
    number = 0
    while (last := weights.get(f"body.{number}.res_layer.4.weight")) is not None:
        width = len(last)
        if width not in counts or last.shape[2:] != (3, 3):
            raise ValueError(
                f"block {number} has a last convolution {list(last.shape)}, expected 3x3 of one of "
                f"the widths {', '.join(map(str, counts))}: IR-152 and IR-200 are not known"
            )
        places[number] = f"layer{IResNet.WIDTHS.index(width) + 1}.{counts[width]}"
        counts[width] += 1
        number += 1
    return places


FAMILIES: Final = (
    Family("AdaFace", "model.", "input_layer.0.weight", "bgr", _ir),
    Family("CVLface", "net.", "input_layer.0.weight", "rgb", _ir),
    # As AdaFace's own example of use leaves its names.
    Family("AdaFace", "", "input_layer.0.weight", "bgr", _ir),
)

# What else is often met: a name that it has, and what it is called.
_OTHERS: Final = {
    "patch_embed.proj.weight": "a vision transformer (ViT)",
    "conv_6_dw.conv.weight": "the MobileFaceNet of another project",
    "conv2d_1a.conv.weight": "an Inception-ResNet, as facenet-pytorch has",
    "layer1.0.bn3.weight": "an IResNet, as published with ArcFace",
    "layer1.0.conv2.weight": "a ResNet, as torchvision has",
}


def as_published(weights: Weights, source: str) -> tuple[dict[str, Tensor], str]:
    """Return weights under this project's names, for RGB, and in words what was done; else empty.

    Weights of no family of the table are returned as they are. Raises `ValueError` with `source`
    for a network of a family that this project does not have.
    """
    for family in FAMILIES:
        if family.has(weights):
            try:
                found = family.published(weights)
            except (KeyError, IndexError, TypeError, ValueError) as error:
                reason = str(error)
                if not isinstance(error, ValueError):  # damage causes these
                    reason = f"layers are missing or of another shape: {error}"
                raise ValueError(
                    f"{source} looks like a network of {family.name}, and {reason}"
                ) from None
            turned = ", channels turned from BGR to RGB" if family.channels == "bgr" else ""
            return found, f"an IR network of {family.name}{turned}"
    return dict(weights), ""


def likely_family(weights: Weights) -> str:
    """Return in words what weights look like; empty if nothing is known of them."""
    for name, words in _OTHERS.items():
        if any(found == name or found.endswith(f".{name}") for found in weights):
            return words
    return ""
