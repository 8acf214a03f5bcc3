"""Weight files: reading them, loading them into a backbone, and finding the backbone they fit."""

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from backbones.build import BACKBONES, build_backbone

_SHOWN = 3  # differences of each kind in a message


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the state dict in a file written by `torch.save`, with its tensors on the CPU.

    The file is read with `weights_only=True`, so it cannot run code. Raises `ValueError` if there
    is no such file, or if it holds anything other than named tensors.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).partition("\n")[0]  # then torch explains how to trust the file
        raise ValueError(
            f"{path} is not a file of weights that is safe to read: {reason}; expected a state "
            "dict written by torch.save"
        ) from None
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}: expected a state dict")
    for name, value in content.items():
        if not isinstance(value, Tensor):
            raise ValueError(
                f"{path} is not a plain state dict: {name!r} is a {type(value).__name__}, expected "
                "a tensor under every name; save only backbone.state_dict()"
            )
    return dict(content)


def load_weights(backbone: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Copy `weights` into `backbone`: all of them or, if anything does not match, none.

    Raises `ValueError` with `source`, the first differences in names and shapes, and the embedding
    sizes if they differ.
    """
    expected = backbone.state_dict()
    differences = {
        "missing": [name for name in expected if name not in weights],
        "unknown": [name for name in weights if name not in expected],
        "of another shape": [
            f"{name} {list(weights[name].shape)} instead of {list(expected[name].shape)}"
            for name in expected
            if name in weights and weights[name].shape != expected[name].shape
        ],
    }
    if any(differences.values()):
        size, expected_size = _embedding_size(weights), _embedding_size(expected)
        sizes = f"; embedding_size is {size}, expected {expected_size}"
        raise ValueError(
            f"{source} does not match this backbone: {_summary(differences)}"
            f"{sizes if size != expected_size else ''}; build the backbone of these weights"
        )
    backbone.load_state_dict(weights)


def build_for_weights(
    weights: Mapping[str, Tensor], source: str, *, image_size: int = 112
) -> tuple[str, nn.Module]:
    """Return the backbone whose state dict has the names in `weights`: its name, and it loaded.

    The embedding size follows from the shapes. Raises `ValueError` with `source` if no backbone
    has these names, or if the shapes do not match `image_size`.
    """
    embedding_size = _embedding_size(weights)
    for name in BACKBONES if embedding_size else ():
        with torch.device("meta"):
            names = build_backbone(name).state_dict().keys()
        if names == weights.keys():
            backbone = build_backbone(name, embedding_size=embedding_size, image_size=image_size)
            load_weights(backbone, weights, source)
            return name, backbone
    raise ValueError(
        f"{source} does not have the weights of any of {', '.join(BACKBONES)}: "
        f"its {len(weights)} names begin with {', '.join(list(weights)[:_SHOWN]) or 'nothing'}"
    )


def _embedding_size(weights: Mapping[str, Tensor]) -> int:
    """Return the size of the last layer, a batch norm in every backbone; 0 if there is none."""
    sizes = [len(value) for name, value in weights.items() if name.endswith(".running_mean")]
    return sizes[-1] if sizes else 0


def _summary(differences: Mapping[str, list[str]]) -> str:
    parts = []
    for kind, items in differences.items():
        if items:
            more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
            parts.append(f"{len(items)} {kind}: {', '.join(items[:_SHOWN])}{more}")
    return "; ".join(parts)
