"""Networks of every form that can be verified, as functions from images to embeddings."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from recognition.inference import Network, PixelFormat, load_network
from recognition.inference.description import sha256
from recognition.inference.pixels import Model


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
    pixels: PixelFormat | None = None,
    image_size: int | None = None,
    which: str = "latest",
    weights: str = "raw",
) -> list[LoadedModel]:
    """Return the networks, each under a name of its own.

    The options are those of `recognition.inference.load_network`, which says what a path may be,
    and raises `ValueError` for any other; so does this for one that occurs twice.
    """
    networks = [
        load_network(
            path, device, pixels=pixels, image_size=image_size, which=which, weights=weights
        )
        for path in paths
    ]
    # A folder `checkpoints/<step>` alone says little; a file is named after itself.
    names = [path.resolve().name if path.is_dir() else path.stem for path in paths]
    unique = [
        str(path) if names.count(name) > 1 else name
        for path, name in zip(paths, names, strict=True)
    ]
    if len(set(unique)) < len(unique):
        raise ValueError(f"--model {' '.join(map(str, paths))}: expected each once")
    return [_loaded(name, network) for name, network in zip(unique, networks, strict=True)]


def _loaded(name: str, network: Network) -> LoadedModel:
    details = dict(network.details)
    if network.kind == "onnx" and (files := external_data(network.file)):
        details["external_data"] = {str(one): sha256(network.file.parent / one) for one in files}
    return LoadedModel(
        name=name,
        embed=network.embed,
        image_size=network.image_size,
        file=network.file,
        sha256=sha256(network.file),
        kind=network.kind,
        pixels=network.pixels,
        details=details,
    )


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
