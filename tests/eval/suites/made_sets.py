"""Small sets of coloured images, whose people a network of a few operations can tell apart."""

from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from eval.suites.images import Embedder
from eval.suites.models import LoadedModel
from recognition.distributed import World
from recognition.inference import PixelFormat

PEOPLE = 12
PHOTOS = 3


def corners(images: Tensor) -> Tensor:
    """Return the mean of each channel in each quarter of the images, float32 [b, 12]."""
    return torch.nn.functional.adaptive_avg_pool2d(images, 2).flatten(1)


def model(name: str = "corners") -> LoadedModel:
    """Return a network that knows the quarters of an image."""
    return LoadedModel(name, corners, 16, Path(f"{name}.onnx"), name, "onnx", PixelFormat(), {})


def photo(person: int, number: int) -> bytes:
    """Return a photo of a person as PNG."""
    colours = np.random.default_rng(person).integers(0, 256, (2, 2, 3))
    noise = np.random.default_rng([person, number]).integers(-60, 61, (16, 16, 3))
    pixels = np.clip(np.kron(colours, np.ones((8, 8, 1))) + noise, 0, 255).astype(np.uint8)
    content = BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def write_folder(root: Path) -> list[str]:
    """Write a folder per person; return the paths."""
    paths = [f"p{person:02}/{number}.png" for person in range(PEOPLE) for number in range(PHOTOS)]
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(photo(int(path[1:3]), int(path[4])))
    return paths


def embedder(seen: list[int] | None = None, cache: Path | None = None) -> Embedder:
    """Return what embeds on this process."""
    counted = [] if seen is None else seen
    return Embedder(torch.device("cpu"), World(), cache, 8, advance=counted.append)
