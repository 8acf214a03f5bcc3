"""Networks of every form, as functions from images to embeddings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import Tensor, nn

from backbones import build_for_weights, read_weights
from recognition.checkpoint import backbone_file, read_metadata
from recognition.inference.description import (
    Description,
    Threshold,
    described,
    pixels_of_metadata,
)
from recognition.inference.exported_model import ExportedModel
from recognition.inference.onnx_model import OnnxModel
from recognition.inference.pixels import Model, PixelFormat
from recognition.inference.safetensors_file import read_safetensors

SAFETENSORS: Final = "model.safetensors"
DEFAULT_SIZE: Final = 112


@dataclass(frozen=True)
class Network:
    """A network, and what is known of it."""

    embed: Model  # of RGB images in [-1, 1], float32 [n, 3, S, S], on its device
    image_size: int  # S
    file: Path
    kind: str  # checkpoint, weights, onnx, torch.export or safetensors
    pixels: PixelFormat
    details: dict[str, Any]
    module: nn.Module | None = None  # its backbone, where the file holds weights alone
    flip: bool = False  # whether the thresholds are for embeddings that add the mirror image's
    thresholds: tuple[Threshold, ...] = ()  # none where the file states none


def load_network(
    path: Path,
    device: torch.device,
    *,
    pixels: PixelFormat | None = None,  # by default what the file states, or what training uses
    image_size: int | None = None,  # by default what the file states, or 112
    which: str = "latest",
    weights: str = "raw",
) -> Network:
    """Return the network that `path` means, on `device`.

    That is a run folder (of which `which` says the checkpoint), a checkpoint folder (of which
    `weights` says the file), a file of weights, `.onnx`, `.pt2`, `.safetensors`, or the folder of
    an export, of which it takes `model.safetensors`. Raises `ValueError` for any other, and for an
    `image_size` that the file contradicts.
    """
    if not path.exists():
        raise ValueError(
            f"{path} does not exist: expected a run, a checkpoint, the folder of an export, or a "
            "file of weights, .onnx, .pt2 or .safetensors"
        )
    if path.is_dir() and Description.read(path) is not None:
        path = path / SAFETENSORS
    if path.suffix in _READERS:
        if path.is_file():
            # A file stands for itself, and is refused where other weights than its own are meant.
            backbone_file(path, which, weights)
        found = described(path)
        stated = None if found is None else found[0].image_size
        form = _READERS[path.suffix](path, device, _size(image_size, stated, path))
    else:
        found, form = None, _weights(path, device, image_size, which, weights)
    format_ = pixels or (found[0].pixels if found else form.pixels) or PixelFormat()
    return Network(
        embed=format_.adapt(form.model),
        image_size=form.image_size or DEFAULT_SIZE,
        file=form.file,
        kind=form.kind,
        pixels=format_,
        details=form.details,
        module=form.model if isinstance(form.model, nn.Module) else None,
        flip=found is not None and found[0].flip,
        thresholds=found[1].thresholds if found else (),
    )


@dataclass(frozen=True)
class _Form:
    """What the reader of one kind of file returns."""

    model: Model
    file: Path
    kind: str
    image_size: int | None
    details: dict[str, Any] = field(default_factory=dict)
    pixels: PixelFormat | None = None


def _onnx(path: Path, device: torch.device, image_size: int | None) -> _Form:
    model = OnnxModel(path, device)
    details = {"provider": model.provider, "onnxruntime": model.version}
    size = _size(image_size, model.image_size, path)
    return _Form(model, path, "onnx", size, details, pixels_of_metadata(path, model.metadata))


def _exported(path: Path, device: torch.device, image_size: int | None) -> _Form:
    model = ExportedModel(path, device)
    return _Form(model, path, "torch.export", _size(image_size, model.image_size, path))


def _safetensors(path: Path, device: torch.device, image_size: int | None) -> _Form:
    return _backbone(read_safetensors(path), path, "safetensors", device, image_size)


_READERS: Final = {".onnx": _onnx, ".pt2": _exported, ".safetensors": _safetensors}


def _weights(
    path: Path, device: torch.device, image_size: int | None, which: str, weights: str
) -> _Form:
    file, kind, details = backbone_file(path, which, weights), "weights", {}
    if path.is_dir():
        saved = read_metadata(file.parent)
        kind, details = "checkpoint", {"step": saved["step"], "weights": weights}
        image_size = _size(image_size, int(saved["config"]["data"]["image_size"]), file)
    return _backbone(read_weights(file), file, kind, device, image_size, details)


def _backbone(
    weights: Mapping[str, Tensor],
    file: Path,
    kind: str,
    device: torch.device,
    image_size: int | None,
    details: Mapping[str, Any] = MappingProxyType({}),
) -> _Form:
    size = image_size or DEFAULT_SIZE
    name, backbone = build_for_weights(weights, str(file), image_size=size)
    backbone = backbone.eval().to(device).to(memory_format=torch.channels_last)
    return _Form(backbone, file, kind, size, {**details, "backbone": name})


def _size(option: int | None, stated: int | None, path: Path) -> int | None:
    if option is not None and stated is not None and option != stated:
        raise ValueError(f"image_size is {option}, {path} expects {stated}: leave it out")
    return option or stated
