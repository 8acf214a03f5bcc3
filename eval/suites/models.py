"""Networks of every form that can be verified, as functions from images to embeddings."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from backbones import build_for_weights, read_weights
from data.augmentations.augment import MID_GREY
from eval.embedding import Model
from eval.exported_model import ExportedModel
from eval.onnx_model import OnnxModel
from recognition.checkpoint import backbone_file, read_metadata

DEFAULT_SIZE = 112


@dataclass(frozen=True)
class PixelFormat:
    """What a network expects of its input, where that is not what this project trains with."""

    mean: float = MID_GREY  # to subtract from pixels of 0 to 255
    std: float = MID_GREY  # to divide them by, after that
    channels: Literal["rgb", "bgr"] = "rgb"

    def __post_init__(self) -> None:
        """Raise `ValueError` for a deviation that nothing can be divided by."""
        if self.std <= 0:
            raise ValueError(f"--std is {self.std}: expected a positive number")

    def adapt(self, model: Model) -> Model:
        """Return the model for RGB images in [-1, 1]."""
        rescale = (self.mean, self.std) != (MID_GREY, MID_GREY)

        def embed(images: Tensor) -> Tensor:
            if rescale:
                images = (images * MID_GREY + MID_GREY - self.mean) / self.std
            return model(images.flip(1) if self.channels == "bgr" else images)

        return embed


@dataclass(frozen=True)
class LoadedModel:
    """A network, and what a report says about it."""

    name: str
    embed: Model  # of RGB images in [-1, 1]
    image_size: int
    file: Path
    sha256: str
    kind: str
    pixels: PixelFormat
    details: dict[str, Any]


def load_models(
    paths: Sequence[Path],
    device: torch.device,
    *,
    pixels: PixelFormat,
    image_size: int | None = None,
    which: str = "latest",
    weights: str = "raw",
) -> list[LoadedModel]:
    """Return the networks, each under a name of its own.

    A path is a run folder (of which `which` says the checkpoint), a checkpoint folder (of which
    `weights` says the file), a weight file, `.onnx` or `.pt2`. Raises `ValueError` for any other,
    and for one that occurs twice.
    """
    models = [_load(path, device, pixels, image_size, (which, weights)) for path in paths]
    names = [model.name for model in models]
    named = [
        replace(model, name=str(path)) if names.count(model.name) > 1 else model
        for path, model in zip(paths, models, strict=True)
    ]
    if len({model.name for model in named}) < len(named):
        raise ValueError(f"--model {' '.join(map(str, paths))}: expected each once")
    return named


def _load(
    path: Path,
    device: torch.device,
    pixels: PixelFormat,
    image_size: int | None,
    of_run: tuple[str, str],
) -> LoadedModel:
    if not path.exists():
        raise ValueError(
            f"--model {path} does not exist: expected a folder, weights, an .onnx or a .pt2 file"
        )
    # A file stands for itself, and is refused where other weights than its own are asked for.
    file, kind, details = backbone_file(path, *of_run), "weights", {}
    if path.is_dir():
        saved = read_metadata(file.parent)
        kind, details = "checkpoint", {"step": saved["step"], "weights": of_run[1]}
        image_size = _size(image_size, int(saved["config"]["data"]["image_size"]), file)
    network: Model
    if path.suffix == ".onnx":
        network = OnnxModel(path, device)
        kind, details = "onnx", {"provider": network.provider, "onnxruntime": network.version}
        if weights := external_data(path):
            details["external_data"] = {str(one): sha256(path.parent / one) for one in weights}
        image_size = _size(image_size, network.image_size, path)
    elif path.suffix == ".pt2":
        network = ExportedModel(path, device)
        kind = "torch.export"
        image_size = _size(image_size, network.image_size, path)
    else:
        image_size = image_size or DEFAULT_SIZE
        details["backbone"], network = _backbone(file, device, image_size)
    return LoadedModel(
        # A folder `checkpoints/<step>` alone says little; a file is named after itself.
        name=path.resolve().name if path.is_dir() else path.stem,
        embed=pixels.adapt(network),
        image_size=image_size or DEFAULT_SIZE,
        file=file,
        sha256=sha256(file),
        kind=kind,
        pixels=pixels,
        details=details,
    )


def _backbone(file: Path, device: torch.device, image_size: int) -> tuple[str, nn.Module]:
    weights = read_weights(file)
    name, backbone = build_for_weights(weights, str(file), image_size=image_size)
    return name, backbone.eval().to(device).to(memory_format=torch.channels_last)


def _size(option: int | None, stated: int | None, path: Path) -> int | None:
    if option is not None and stated is not None and option != stated:
        raise ValueError(f"--image-size is {option}, {path} expects {stated}: omit the option")
    return option or stated


def external_data(path: Path) -> list[Path]:
    """Return the files beside an ONNX file that hold its weights, relative to its folder.

    The file names them in entries of the key `location`; without their content its hash would not
    tell two networks apart.
    """
    content = path.read_bytes()
    found = set()
    for match in re.finditer(rb"\n\x08location\x12([\x80-\xff]?[\x00-\x7f])", content):
        # A varint of up to two bytes: the length of the text that follows.
        length = sum((byte & 0x7F) << (7 * place) for place, byte in enumerate(match[1]))
        name = Path(content[match.end() : match.end() + length].decode(errors="replace"))
        if (path.parent / name).is_file():
            found.add(name)
    return sorted(found)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
