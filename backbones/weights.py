"""Weight files: reading them, loading them into a backbone, and telling whose they are."""

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from backbones.build import BACKBONES, build_backbone

_SHOWN = 3  # differences of a kind that a message lists


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the state dict in a file written by `torch.save`, with its tensors on the CPU.

    The file is read with `weights_only=True`, so it cannot run code. Raises `ValueError` if there
    is no such file, or it holds anything but tensors by name.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).partition("\n")[0]  # torch goes on about ways to trust the file
        raise ValueError(
            f"{path}: no file of weights that is safe to read: {reason}; expected a state dict "
            "written by torch.save"
        ) from None
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}: expected a state dict")
    for name, value in content.items():
        if not isinstance(value, Tensor):
            raise ValueError(
                f"{path} is not a bare state dict: {name!r} is a {type(value).__name__}, expected "
                "a tensor under every name; save backbone.state_dict() alone"
            )
    return dict(content)


def load_weights(backbone: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Copy `weights` into `backbone`: all of them or, if anything does not fit, none.

    Raises `ValueError` that names `source`, lists the first differences in names and shapes, and
    says so if the embedding size differs.
    """
    own = backbone.state_dict()
    differences = {
        "missing": [name for name in own if name not in weights],
        "not known": [name for name in weights if name not in own],
        "of another shape": [
            f"{name} {list(weights[name].shape)} instead of {list(own[name].shape)}"
            for name in own
            if name in weights and weights[name].shape != own[name].shape
        ],
    }
    if any(differences.values()):
        found, expected = _embedding_size(weights), _embedding_size(own)
        hint = "" if found == expected else f"; embedding_size is {found}, expected {expected}"
        raise ValueError(
            f"{source} does not fit this backbone: {_summary(differences)}{hint}; "
            "build the backbone that the weights were trained as"
        )
    backbone.load_state_dict(weights)


def build_for_weights(
    weights: Mapping[str, Tensor], source: str, *, image_size: int = 112
) -> tuple[str, nn.Module]:
    """Return the name of the backbone that has the names in `weights`, and it with them loaded.

    The embedding size follows from the shapes. Raises `ValueError` that names `source` if no
    backbone has these names, or the shapes do not fit `image_size`.
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
        f"{source} has the weights of none of {', '.join(BACKBONES)}: "
        f"its {len(weights)} names start with {', '.join(list(weights)[:_SHOWN]) or 'nothing'}"
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
