"""Weights in files of safetensors: numbers with names, and nothing that could be executed."""

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from torch import Tensor


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file, on the CPU.

    Raises `ValueError` for a file that is damaged or is none, and `ModuleNotFoundError`, with the
    extra to install, without the package.
    """
    library = _library(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected one of safetensors")
    try:
        weights: dict[str, Tensor] = library.load_file(path)
    except Exception as error:  # its own exceptions have no common base
        reason = " ".join(str(error)[:200].split())
        raise ValueError(f"{path} cannot be read as safetensors: {reason}; copy it anew") from None
    return weights


def write_safetensors(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Write tensors under their names; raises `ModuleNotFoundError` as `read_safetensors`."""
    copies = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    # Its own `save_file` makes a file that its owner alone can read.
    path.write_bytes(_library(path).save(copies, metadata={"format": "pt"}))


def _library(path: Path) -> ModuleType:
    try:
        import safetensors.torch
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"{path} needs safetensors, which is not installed: pip install "
            "'partialfc[safetensors]'"
        ) from None
    return safetensors.torch
