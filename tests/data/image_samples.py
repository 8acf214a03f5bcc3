"""Small images in various formats, for the tests of reading and writing image files."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def encode(
    kind: str = "JPEG",
    *,
    seed: int = 0,
    size: int = 16,
    mode: str = "RGB",
    noise: float = 0.0,
    **options: Any,
) -> bytes:
    """Return a smooth image plus noise of this deviation, a different one for every seed."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (4, 4, 3), np.uint8))
    pixels = np.asarray(coarse.resize((size, size)))
    if noise:
        pixels = (pixels + random.normal(0, noise, pixels.shape)).clip(0, 255).astype(np.uint8)
    if kind == "JPEG":
        options.setdefault("quality", 90)
    return encode_pixels(pixels, kind, mode, **options)


def encode_pixels(
    pixels: NDArray[Any], kind: str, mode: str | None = None, **options: Any
) -> bytes:
    """Return `pixels` as an image file, converted to `mode` if one is given."""
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(buffer, kind, **options)
    return buffer.getvalue()


def people(root: Path, counts: dict[str, int], **options: Any) -> dict[str, bytes]:
    """Fill `root` with `counts` images for each name; return the contents by relative path."""
    made: dict[str, bytes] = {}
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            content = encode(seed=len(made), **options)
            made[f"{name}/{number:03d}.jpg"] = content
            (root / name / f"{number:03d}.jpg").write_bytes(content)
    return made


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files below `folder` by relative path."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
